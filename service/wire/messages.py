"""The messages between processes, a class for each kind; `service.wire.framing` makes bytes of them.

Two conversations use them. Front end and engine, over the engine's Unix socket: `Infer`, `Cancel` and `Wanted`
one way, `Result` and `Failure` the other. Supervisor and child, over the child's control socket: `Generation`,
`EngineDied`, `Retire`, `Waiting`, `Reloading`, `Optimized` and `Drain` to the child, `Ready` from an engine,
`Listening` and `Reload` from a front end, `Optimized` from a compiler. The end of either stream is the news that the
other side is gone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec

from service.loader.report import Report
from service.loader.tuning import Tuned, Tuning
from service.loader.verdict import Verdict
from service.signature import ALIGNMENT, Signature

#: Whatever has bytes: `collections.abc.Buffer` of Python 3.12.
Buffer = bytes | memoryview


class Frame(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """One message. Subclasses are the whole vocabulary."""


class Tensors:
    """The bytes of arrays, which follow a frame's header: memory that is handed on, never copied into the frame.

    They lie as `service.signature.blocks` says. A frame that is sent may have them in several pieces; one that was
    received has them in one.
    """

    __slots__ = ("pieces",)

    def __init__(self, *pieces: Buffer) -> None:
        self.pieces = pieces

    @classmethod
    def of(cls, *arrays: Buffer) -> Tensors:
        """Lay whole blocks one behind the other."""
        pieces = list(arrays[:1])
        for before, array in itertools.pairwise(arrays):
            pieces += [bytes(-memoryview(before).nbytes % ALIGNMENT), array]
        return cls(*pieces)

    @property
    def nbytes(self) -> int:
        return sum(memoryview(piece).nbytes for piece in self.pieces)

    @property
    def data(self) -> memoryview:
        """Return all of it in one dimension; a copy if it is in several pieces."""
        return memoryview(self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)).cast("B")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tensors) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.nbytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tensors, (bytes(self.data),)


class Infer(Frame, frozen=True):
    """Run `count` examples through a model.

    `model` is NAME. `deadline` is CLOCK_MONOTONIC seconds, the same clock in every process of the machine. `alone` asks
    for a batch with nobody else in it. `tensors` are the model's inputs.
    """

    id: int
    model: str
    count: int
    deadline: float
    alone: bool
    tensors: Tensors


class Cancel(Frame, frozen=True):
    """The client no longer waits for this request."""

    id: int


class Wanted(Frame, frozen=True):
    """A request waits for this model, which the engine has not brought up yet: it comes before others."""

    model: str


class Result(Frame, frozen=True):
    """The answer to an `Infer`: the model's outputs.

    `queue_seconds` is the wait of the request's last example, `forward_seconds` the time its batches took.
    `backlog_seconds` is how long what now waits in the engine for this model, of all front ends, will take;
    `example_seconds` what one more example adds to it.
    """

    id: int
    tensors: Tensors
    queue_seconds: float
    forward_seconds: float
    backlog_seconds: float
    example_seconds: float


class Failure(Frame, frozen=True):
    """No answer: `error` is the name of a refusal in `service.errors`."""

    id: int
    error: str
    detail: str


class ModelState(msgspec.Struct, frozen=True):
    """State of one model in one generation, as front ends need it and `/models/{m}` shows it.

    `state` is `loading`, `ready` or `failed`; `detail` says why it failed. `task` and `input_kind` are names of the
    catalogue. `input` is the card's, resolved, where the task has one; `decoded_for` is a digest of all that decides
    how bytes become inputs, and an engine gets no inputs that were made for another one. `answer` is what the task's
    output writes besides the results.
    `report` is the proof's, of a model that got that far; `verdict` says whether a compiled package answers for it.
    `cuda_graphs` are the batch sizes whose kernels a GPU is given at once.
    """

    name: str
    state: str
    required: bool = True
    detail: str = ""
    version: str = ""
    seal: str = ""
    task: str = ""
    signature: Signature = Signature()
    input_kind: str = ""
    input: dict[str, Any] = {}
    decoded_for: str = ""
    answer: dict[str, Any] = {}
    batch_sizes: list[int] = []
    tuning: Tuning | None = None
    tuned: Tuned | None = None
    cuda_graphs: list[int] = []
    example_seconds: float = 0.0
    memory_bytes: dict[str, int] = {}
    card: dict[str, Any] = {}
    report: Report | None = None
    verdict: Verdict | None = None


def any_up(models: Sequence[ModelState]) -> bool:
    """Return whether a model answers, or none ever will because all have failed."""
    states = {model.state for model in models}
    return "ready" in states or "loading" not in states


class Ready(Frame, frozen=True):
    """An engine listens, and serves these models; sent when it starts, and each time that a model's state changes."""

    device: str
    models: list[ModelState]

    @property
    def complete(self) -> bool:
        """No model is being loaded or proven any more, or is yet to be."""
        return all(model.state != "loading" for model in self.models)


class Generation(Frame, frozen=True):
    """Turn to this engine for `device`: its socket, what it serves, and which model `/predict` goes to.

    It comes again, with the same number, when the state of one of its models has changed.
    """

    device: str
    number: int
    socket: str
    models: list[ModelState]
    default_model: str = ""


class Retire(Frame, frozen=True):
    """Send this engine nothing more: its successor starts when it has finished and ended."""

    device: str
    number: int


class Waiting(Frame, frozen=True):
    """Why `device` has no engine: `detail` says what is being waited for, since `since` (CLOCK_MONOTONIC seconds)."""

    device: str
    detail: str
    since: float


class Listening(Frame, frozen=True):
    """A front end accepts connections."""


class Reload(Frame, frozen=True):
    """An operator asks: read the model folders again, and serve what they hold now."""


class Reloading(Frame, frozen=True):
    """State of reloads: whether one is running, the number that have ended, and the error of the last one, if any."""

    running: bool
    ended: int
    error: str


class EngineDied(Frame, frozen=True):
    """An engine died. `aboard` are the ids that were in its forward.

    `cause` is a signal's name, `violation` or `seal-broken` where it caught its model, or `exit N`.
    """

    device: str
    number: int
    cause: str
    aboard: list[int]


class Optimized(Frame, frozen=True):
    """Verdict on compiling a model in the background. The generation that serves it is not changed by it."""

    model: str
    version: str
    verdict: Verdict


class Drain(Frame, frozen=True):
    """Finish what is accepted and end. The front end goes on answering for `delay_seconds` first."""

    delay_seconds: float
    limit_seconds: float


AnyFrame = (
    Infer
    | Cancel
    | Wanted
    | Result
    | Failure
    | Ready
    | Generation
    | Retire
    | Waiting
    | Listening
    | Reload
    | Reloading
    | EngineDied
    | Optimized
    | Drain
)
