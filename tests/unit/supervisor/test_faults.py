"""What makes a generation worse than the one before it."""

from __future__ import annotations

import pytest

from service.supervisor.faults import faults
from service.wire.messages import ModelState


def states(**by_name: str) -> list[ModelState]:
    """Models by name; `optional` in a state makes one that is not required."""
    return [
        ModelState(
            name, state.split()[0], required="optional" not in state, detail="broken" if "failed" in state else ""
        )
        for name, state in by_name.items()
    ]


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        ({"a": "ready"}, {"a": "ready"}, []),
        ({"a": "ready"}, {"a": "failed"}, ["a"]),
        ({"a": "ready optional"}, {"a": "failed optional"}, ["a"]),
        ({"a": "ready"}, {"a": "ready", "b": "failed"}, ["b"]),
        ({"a": "ready"}, {"a": "ready", "b": "failed optional"}, []),
        ({"a": "ready", "b": "failed"}, {"a": "ready", "b": "failed"}, []),
        ({"a": "ready", "b": "loading"}, {"a": "ready", "b": "failed"}, ["b"]),
        ({"a": "ready", "b": "ready"}, {"a": "ready"}, []),
        ({"a": "ready", "b": "ready"}, {"a": "failed", "b": "failed"}, ["a", "b"]),
    ],
    ids=[
        "the same",
        "a required one fails",
        "an optional one that served fails",
        "a new required one fails",
        "a new optional one fails",
        "one that had failed still does",
        "one that was still loading fails",
        "one was taken away",
        "two fail",
    ],
)
def test_a_generation_is_worse_when_one_that_must_be_ready_is_not(before, after, worse):
    assert faults(states(**before), states(**after)) == [f"{name}: broken" for name in worse]
