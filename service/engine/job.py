"""Jobs, which requests carry through the batcher, and the way of their answers back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from service.engine.batcher import Request
from service.wire.messages import Failure, Infer, Result

#: A request and its answer.
Delivery = tuple[Request, Result | Failure]


class Asker(Protocol):
    """Takes the answers to requests that it made."""

    def answer(self, *frames: Result | Failure) -> None:
        """Take answers, from the worker's thread. A request may fail more than once: the first answer counts."""


@dataclass(slots=True)
class Job:
    """One request's frame, its asker, and its answer as it grows."""

    frame: Infer
    asker: Asker
    probabilities: list[bytes] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    done: int = 0
    queue_seconds: float = 0.0
    forward_seconds: float = 0.0


def deliver(deliveries: Iterable[Delivery]) -> None:
    """Give each asker its answers, all of them at once."""
    by_asker: dict[Asker, list[Result | Failure]] = {}
    for request, frame in deliveries:
        by_asker.setdefault(request.payload.asker, []).append(frame)
    for asker, frames in by_asker.items():
        asker.answer(*frames)
