"""The messages between processes, a class for each kind; `service.wire.framing` makes bytes of them.

Two conversations use them. Front end and engine, over the engine's Unix socket: `Infer`, `Cancel` and `Wanted`
one way, `Result` and `Failure` the other. Supervisor and child, over the child's control socket: `Generation`,
`EngineDied`, `Retire`, `Waiting`, `Reloading`, `Optimized` and `Drain` to the child, `Ready` from an engine,
`Listening` and `Reload` from a front end, `Optimized` from a compiler. The end of either stream is the news that the
other side is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from service.loader.report import Report
from service.loader.tuning import Tuned, Tuning
from service.loader.verdict import Verdict


class Frame(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """One message. Subclasses are the whole vocabulary."""


class Infer(Frame, frozen=True):
    """Run `count` examples through a model.

    `pixels` is `(count, C, H, W) uint8`, C order, in one dimension: a view, since copies of it are what a frame costs.
    `deadline` is CLOCK_MONOTONIC seconds, the same clock in
    every process of the machine. `alone` asks for a batch with nobody else in it.
    """

    id: int
    model: str
    count: int
    top_k: int
    deadline: float
    alone: bool
    pixels: memoryview


class Cancel(Frame, frozen=True):
    """The client no longer waits for this request."""

    id: int


class Wanted(Frame, frozen=True):
    """A request waits for this model, which the engine has not brought up yet: it comes before others."""

    model: str


class Result(Frame, frozen=True):
    """The answer to an `Infer`: `probabilities` is `(count, k) float32`, `ids` is `(count, k) int32`.

    `queue_seconds` is the wait of the request's last example, `forward_seconds` the time its batches took.
    `backlog_seconds` is how long what now waits in the engine for this model, of all front ends, will take;
    `example_seconds` what one more example adds to it.
    """

    id: int
    k: int
    probabilities: bytes
    ids: bytes
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

    `state` is `loading`, `ready` or `failed`; `detail` says why it failed. `input` is the card's, resolved.
    `report` is the proof's, of a model that got that far; `verdict` says whether a compiled package answers for it.
    `cuda_graphs` are the batch sizes whose kernels a GPU is given at once.
    """

    name: str
    state: str
    required: bool = True
    detail: str = ""
    version: str = ""
    seal: str = ""
    task: str = "classification"
    input: dict[str, Any] = {}
    labels: list[str] = []
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
