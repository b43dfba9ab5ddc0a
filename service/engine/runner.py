"""One batch to its answers: collate, forward, best classes; what fails is halved, down to the example that fails."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import structlog
import torch
from prometheus_client import Histogram
from torch import Tensor

from service.engine.aboard import Aboard
from service.engine.batcher import Batch, Part, Request, halves, split
from service.engine.caps import Caps
from service.engine.failures import is_device_lost, is_out_of_memory
from service.engine.guard import CaughtError, Guard
from service.engine.model import ServedModel
from service.engine.pace import Pace
from service.engine.wire import Failure, Infer, Result
from service.errors import ModelFailed, ModelOutputInvalid, Refusal
from service.metrics import BatchMetrics, Metrics
from service.specs import ExitCode
from service.tasks.classification import best_classes

if TYPE_CHECKING:
    from service.engine.process import FrontEndConnection

log = structlog.get_logger()

Answer = tuple[Request, Result | Failure]
Rows = np.ndarray[Any, Any]

#: A forward has so many times the longest that was ever seen, if that is more than the setting says.
LIMIT_IN_LONGEST = 20


@dataclass(slots=True)
class Job:
    """What a request carries through the batcher: its frame, who asked, and its answer as it grows."""

    frame: Infer
    connection: FrontEndConnection
    probabilities: list[bytes] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    done: int = 0
    queue_seconds: float = 0.0
    forward_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Flight:
    """A forward under way. Times are CLOCK_MONOTONIC seconds.

    Attributes:
        slot: of the staging buffer that its examples are in.
        began, collated: when they began to be put there, and when they were there.
        end: waits for it, and gives the logits.
    """

    batch: Batch
    slot: int
    began: float
    collated: float
    end: Callable[[], Tensor]


class Runner:
    """Runs batches, in the worker thread: up to two at a time, ended in the order in which they began.

    Args:
        models, guards: by name, what is served and what watches over it.
        aboard: where the ids in the current forward are written, and until when it must be over.
        caps: learns from what a batch's size did.
        pace: learns from how long it took.
        cancel: called with the id of a request that has its answer already, so that the rest of it need not run.
        watchdog_seconds: the shortest time after which a forward counts as one that does not end.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        guards: Mapping[str, Guard],
        aboard: Aboard,
        caps: Caps,
        pace: Pace,
        cancel: Callable[[int], None],
        watchdog_seconds: float,
        metrics: Metrics,
    ) -> None:
        self._models = models
        self._guards = guards
        self._aboard = aboard
        self._caps = caps
        self._pace = pace
        self._cancel = cancel
        self._watchdog_seconds = watchdog_seconds
        self._counted = {name: BatchMetrics(metrics, name) for name in models}
        self._flying: list[Flight] = []
        self._observed: list[tuple[Histogram, float]] = []
        self._ended = 0.0

    def begin(self, batch: Batch) -> Flight:
        """Start on a batch; what goes wrong is told when it ends."""
        slot = 1 - self._flying[0].slot if self._flying else 0
        self._board([*(flight.batch for flight in self._flying), batch])
        if not self._flying:
            self._limit(batch.model)
        flight = self._start(batch, slot)
        self._flying.append(flight)
        return flight

    def followed_by(self, flight: Flight) -> int:
        """Of how many examples another batch of the model must be to begin before this one ends; 0: none does."""
        fewest = self._models[flight.batch.model].overlaps_from
        alone = any(part.request.alone for part in flight.batch.parts)
        return 0 if alone or flight.batch.size < fewest else fewest

    def end(self, flight: Flight) -> list[Answer]:
        """Answers of every request that this batch, the first of those under way, completes.

        Raises:
            CaughtError: the process must end; who was aboard is left in the file.
        """
        answers = self._attempt(flight)
        self._flying.remove(flight)
        self._aboard.clear()
        for following in self._flying:
            self._board([following.batch])
            self._limit(following.batch.model)
        self._caps.went_well(flight.batch.model, flight.batch.size)
        return answers

    def count(self) -> None:
        """Count what has been run: once its answers have left, for which nobody need wait.

        An engine that is killed in between takes the numbers of a batch with it.
        """
        for histogram, value in self._observed:
            histogram.observe(value)
        self._observed.clear()

    def _board(self, batches: Sequence[Batch]) -> None:
        """Write down who is in a forward."""
        self._aboard.board([part.request.id for batch in batches for part in batch.parts])

    def _limit(self, name: str) -> None:
        """Write down until when the next forward to end must be over."""
        seconds = max(self._watchdog_seconds, LIMIT_IN_LONGEST * self._pace.longest(name))
        self._aboard.due(time.monotonic() + seconds)

    def _start(self, batch: Batch, slot: int) -> Flight:
        model = self._models[batch.model]
        began = collated = time.monotonic()
        try:
            pixels = model.collate((part_pixels(part.request, part.start, part.stop) for part in batch.parts), slot)
            collated = time.monotonic()
            end = model.begin_batch(pixels)
        except BaseException as error:
            end = functools.partial(_raise, error)
        return Flight(batch, slot, began, collated, end)

    def _attempt(self, flight: Flight) -> list[Answer]:
        """End a batch, or run its halves; a model is pure, so running an example again is safe."""
        name, parts, size = flight.batch.model, flight.batch.parts, flight.batch.size
        try:
            return self._end(flight)
        except CaughtError:
            raise
        except Refusal as refusal:
            return self._fail(parts, refusal.name, refusal.detail)
        except BaseException as error:  # a model may even call sys.exit
            self._understand(name, size, error)
            if size == 1:
                return self._fail(parts, ModelFailed.name, f"The model's forward raised {type(error).__name__}.")
        answers: list[Answer] = []
        for half in split(parts, halves(size, self._models[name].sizes)):
            self._limit(name)
            answers += self._attempt(self._start(Batch(name, half), flight.slot))
        return answers

    def _understand(self, name: str, size: int, error: BaseException) -> None:
        """Log a failed forward, and draw the consequence: a smaller cap, or the end of the process."""
        traceback = error if size == 1 else None
        log.warning("forward failed", model=name, examples=size, error=type(error).__name__, exc_info=traceback)
        if is_device_lost(error):
            raise CaughtError(name, ExitCode.DEVICE_LOST, f"the device is lost: {type(error).__name__}") from error
        if is_out_of_memory(error):
            self._caps.too_large(name, size)
            torch.cuda.empty_cache()

    def _end(self, flight: Flight) -> list[Answer]:
        name, parts, size = flight.batch.model, flight.batch.parts, flight.batch.size
        logits = flight.end()
        forwarded = time.monotonic()
        # Its turn came when the batch before it had ended.
        began, collated = max(flight.began, self._ended), max(flight.collated, self._ended)
        self._guards[name].look(logits)
        top_k = max(part.request.payload.frame.top_k for part in parts)
        probabilities, ids = (rows.numpy() for rows in best_classes(logits, top_k))
        finished = self._ended = time.monotonic()
        self._pace.record(name, size, finished - began)

        counted = self._counted[name]
        self._observed += [
            (counted.collate, flight.collated - flight.began),
            (counted.forward, forwarded - collated),
            (counted.postprocess, finished - forwarded),
            (counted.size, size),
        ]

        answers: list[Answer] = []
        row = 0
        for part in parts:
            rows = slice(row, row + part.stop - part.start)
            row = rows.stop
            job: Job = part.request.payload
            job.queue_seconds = began - part.request.added
            job.forward_seconds += finished - collated
            answers += self._give(part, probabilities[rows], ids[rows])
        return answers

    def _give(self, part: Part, probabilities: Rows, ids: Rows) -> list[Answer]:
        """Add a part's rows to its request's answer; the answer, if that completes it."""
        job: Job = part.request.payload
        if any(map(math.isnan, probabilities[:, 0].tolist())):  # one NaN or infinite score makes all of a row NaN
            return self._fail([part], ModelOutputInvalid.name, "The model's scores for this input are no numbers.")
        k = min(job.frame.top_k, probabilities.shape[1])
        job.probabilities.append(probabilities[:, :k].tobytes())
        job.ids.append(ids[:, :k].tobytes())
        job.done += part.stop - part.start
        if job.done < part.request.count:
            return []
        self._observed.append((self._counted[part.request.model].queue, job.queue_seconds))
        return [(part.request, self._result(job, k))]

    def _result(self, job: Job, k: int) -> Result:
        """Its answer, if nothing waits behind it."""
        return Result(
            id=job.frame.id,
            k=k,
            probabilities=b"".join(job.probabilities),
            ids=b"".join(job.ids),
            queue_seconds=job.queue_seconds,
            forward_seconds=job.forward_seconds,
            backlog_seconds=0.0,
            example_seconds=self._pace.example_seconds(job.frame.model),
        )

    def _fail(self, parts: Sequence[Part], error: str, detail: str) -> list[Answer]:
        for part in parts:
            self._cancel(part.request.id)
        return [(part.request, Failure(part.request.id, error, detail)) for part in parts]


def _raise(error: BaseException) -> NoReturn:
    raise error


def part_pixels(request: Request, start: int, stop: int) -> memoryview:
    """The bytes of examples `start` to `stop` of a request, without a copy."""
    frame: Infer = request.payload.frame
    size = len(frame.pixels) // frame.count
    return frame.pixels[start * size : stop * size]
