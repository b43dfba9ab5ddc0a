"""Jobs, which requests carry through the batcher, and the way of their answers back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from service.engine.batcher import Request
from service.errors import Unprocessable
from service.signature import TensorSpec, blocks
from service.wire.messages import Failure, Infer, Result

#: A request and its answer.
Delivery = tuple[Request, Result | Failure]


class Asker(Protocol):
    """Takes the answers to requests that it made."""

    def answer(self, *frames: Result | Failure) -> None:
        """Take answers, from the worker's thread. A request may fail more than once: the first answer counts."""


@dataclass(slots=True)
class Job:
    """One request's frame, its asker, and its answer as it grows.

    Attributes:
        blocks: the bytes of each input, of all examples.
        rows: by output, the bytes of the examples that are done, in order.
    """

    frame: Infer
    asker: Asker
    blocks: tuple[memoryview, ...]
    rows: list[list[bytes]] = field(default_factory=list)
    done: int = 0
    queue_seconds: float = 0.0
    forward_seconds: float = 0.0


def job_of(frame: Infer, asker: Asker, inputs: Sequence[TensorSpec]) -> Job:
    """Return the job of a request for a model of these inputs.

    Raises:
        Unprocessable: its bytes are more or fewer than those of its examples.
    """
    data, places = frame.tensors.data, list(blocks([spec.nbytes for spec in inputs], frame.count))
    if len(data) != places[-1][1]:
        raise Unprocessable(f"{len(data)} bytes for {frame.count} examples of {places[-1][1]} bytes.")
    return Job(frame, asker, tuple([data[start:end] for start, end in places]))


def deliver(deliveries: Iterable[Delivery]) -> None:
    """Give each asker its answers, all of them at once."""
    by_asker: dict[Asker, list[Result | Failure]] = {}
    for request, frame in deliveries:
        by_asker.setdefault(request.payload.asker, []).append(frame)
    for asker, frames in by_asker.items():
        asker.answer(*frames)
