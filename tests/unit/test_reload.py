"""What makes a generation worse than the one before it, which files are a model's, and when to give up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from watchfiles import Change

from service.engine.wire import ModelState
from service.reload import concerns_models, faults
from service.start_limit import StartLimit


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
        "one was taken away",
        "two fail",
    ],
)
def test_a_generation_is_worse_when_one_that_must_be_ready_is_not(before, after, worse):
    assert faults(states(**before), states(**after)) == [f"{name}: broken" for name in worse]


@pytest.mark.parametrize(
    ("path", "concerns"),
    [
        ("one/model.toml", True),
        ("one/weights.safetensors", True),
        ("one", True),
        ("one/__pycache__/architecture.cpython-311.pyc", False),
        ("one/.model.toml.swp", False),
        (".git/index", False),
    ],
)
def test_what_python_and_editors_write_is_no_change_of_a_model(path, concerns):
    root = Path("/srv/.venv/site-packages/models")  # what is above the folder is none of its business
    assert concerns_models(root, Change.modified, str(root / path)) == concerns


def test_the_limit_counts_only_while_nothing_is_served():
    async def story():
        gave_up = asyncio.Event()
        limit = StartLimit(0.05, lambda seconds: gave_up.set())
        limit.tell(serving=False)
        limit.tell(serving=True)
        await asyncio.sleep(0.1)
        assert not gave_up.is_set()
        limit.tell(serving=False)
        limit.tell(serving=False)
        await asyncio.wait_for(gave_up.wait(), 5)

    asyncio.run(story())
