"""The flights of batches: collate, forward, best classes. A batch that fails is halved, down to the failing example."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import structlog
import torch
from prometheus_client import Histogram

from service.engine.batcher import Batch, Part, halves, split
from service.engine.caps import Caps
from service.engine.failures import is_device_lost, is_out_of_memory
from service.engine.forwards import Running
from service.engine.guard import CaughtError, Guard
from service.engine.job import Delivery
from service.engine.model import ServedModel
from service.engine.pace import Pace
from service.engine.replies import Replies
from service.errors import ModelFailed, Refusal
from service.metrics import BatchMetrics, Metrics
from service.wire.aboard import Aboard
from service.wire.messages import Result
from service.wire.specs import ExitCode

log = structlog.get_logger()

#: A forward may take this many times the longest that was ever seen, if that is more than the setting says.
LIMIT_IN_LONGEST = 20


@dataclass(slots=True)
class NeverBegun:
    """A forward that failed before it was under way; the failure is told when it is waited for."""

    error: BaseException

    def wait(self) -> NoReturn:
        raise self.error


@dataclass(slots=True, eq=False)
class Flight:
    """A forward under way. Times are CLOCK_MONOTONIC seconds.

    Attributes:
        slot: of the staging buffer that its examples are in.
        began, collated: when they began to be put there, and when they were there.
        running: gives the outputs.
    """

    batch: Batch
    slot: int
    began: float
    collated: float
    running: Running


@dataclass(slots=True, eq=False)
class _Served:
    """A model, what watches over it, and what is counted of it."""

    model: ServedModel
    guard: Guard
    counted: BatchMetrics


class Runner:
    """Runs batches, in the worker thread: up to two at a time, ended in the order in which they began.

    Args:
        aboard: where the ids in the current forward are written, and until when it must be over.
        caps: learns from what a batch's size did.
        pace: learns from how long it took.
        cancel: called with the id of a request that has its answer already, so that the rest of it need not run.
        watchdog_seconds: the shortest time after which a forward counts as one that does not end.
    """

    def __init__(
        self,
        aboard: Aboard,
        caps: Caps,
        pace: Pace,
        cancel: Callable[[int], None],
        watchdog_seconds: float,
        metrics: Metrics,
    ) -> None:
        self._served: dict[str, _Served] = {}
        self._aboard = aboard
        self._caps = caps
        self._pace = pace
        self._replies = Replies(pace, cancel)
        self._watchdog_seconds = watchdog_seconds
        self._metrics = metrics
        self._flying: list[Flight] = []
        self._observed: list[tuple[Histogram, float]] = []
        self._ended = 0.0

    def open(self, name: str, model: ServedModel, guard: Guard) -> None:
        """Run batches of one more model."""
        self._served[name] = _Served(model, guard, BatchMetrics(self._metrics, name))

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
        """Smallest batch of the model that may begin before this one ends; 0 if none may."""
        fewest = self._served[flight.batch.model].model.forward.overlaps_from
        alone = any(part.request.alone for part in flight.batch.parts)
        return 0 if alone or flight.batch.size < fewest else fewest

    def end(self, flight: Flight) -> list[Delivery]:
        """Answers of every request that this batch, the first of those under way, completes.

        Raises:
            CaughtError: the process must end; the requests aboard are left in the file.
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
        """Write down which requests are in a forward."""
        self._aboard.board([part.request.id for batch in batches for part in batch.parts])

    def _limit(self, name: str) -> None:
        """Write down until when the next forward to end must be over."""
        seconds = max(self._watchdog_seconds, LIMIT_IN_LONGEST * self._pace.longest(name))
        self._aboard.due(time.monotonic() + seconds)

    def _start(self, batch: Batch, slot: int) -> Flight:
        model = self._served[batch.model].model
        running: Running
        began = collated = time.monotonic()
        try:
            arrays = model.staging.collate(map(part_blocks, batch.parts), slot)
            collated = time.monotonic()
            running = model.begin_batch(arrays)
        except BaseException as error:
            running = NeverBegun(error)
        return Flight(batch, slot, began, collated, running)

    def _attempt(self, flight: Flight) -> list[Delivery]:
        """End a batch, or run its halves; a model is pure, so running an example again is safe."""
        name, parts, size = flight.batch.model, flight.batch.parts, flight.batch.size
        try:
            return self._end(flight)
        except CaughtError:
            raise
        except BaseException as error:  # a model may even call sys.exit
            self._understand(name, size, error)
            if size == 1:
                return self._replies.fail(parts, *_failure(error))
        answers: list[Delivery] = []
        for half in split(parts, halves(size, self._served[name].model.sizes)):
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

    def _end(self, flight: Flight) -> list[Delivery]:
        name, parts, size = flight.batch.model, flight.batch.parts, flight.batch.size
        served = self._served[name]
        outputs = flight.running.wait()
        forwarded = time.monotonic()
        # Its turn came when the batch before it had ended.
        began, collated = max(flight.began, self._ended), max(flight.collated, self._ended)
        served.guard.look(outputs)
        results, faults = served.model.results(outputs)
        finished = self._ended = time.monotonic()
        self._pace.record(name, size, finished - began)
        self._observed += [
            (served.counted.collate, flight.collated - flight.began),
            (served.counted.forward, forwarded - collated),
            (served.counted.postprocess, finished - forwarded),
            (served.counted.size, size),
        ]
        answers = self._replies.add(parts, results, faults, began, finished - collated)
        queue = served.counted.queue
        self._observed += [(queue, frame.queue_seconds) for _, frame in answers if isinstance(frame, Result)]
        return answers


def part_blocks(part: Part) -> tuple[memoryview, ...]:
    """The bytes of each input of a part's examples, without a copy."""
    blocks: tuple[memoryview, ...] = part.request.payload.blocks
    count = part.request.count
    if part.stop - part.start == count:
        return blocks
    return tuple([block[len(block) // count * part.start : len(block) // count * part.stop] for block in blocks])


def _failure(error: BaseException) -> tuple[str, str]:
    """Return the name and the words of the refusal of an example whose forward raised an error."""
    if isinstance(error, Refusal):
        return error.name, error.detail
    return ModelFailed.name, f"The model's forward raised {type(error).__name__}."
