"""The loop over the models that are ready: batch after batch, and a look at their seals in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NoReturn

import msgspec
import structlog

from service.engine.batcher import Batch, Batcher, Request
from service.engine.bring_up import Proven
from service.engine.caps import Caps
from service.engine.guard import CaughtError
from service.engine.inbox import Inbox
from service.engine.job import Delivery
from service.engine.model import ServedModel
from service.engine.pace import Pace
from service.engine.runner import Flight, Runner
from service.engine.seal_watch import SealWatch
from service.errors import DeadlineExceeded
from service.logs import end_process
from service.metrics import Metrics
from service.wire.aboard import Aboard
from service.wire.messages import Failure, Result
from service.wire.specs import ExitCode

log = structlog.get_logger()


class Serving:
    """Answers what waits for the models that have been opened; in the worker's thread.

    Args:
        batcher: queues what waits.
        inbox: fills the batcher.
        aboard: where the ids in the current forward are written.
        watchdog_seconds: the shortest time after which a forward counts as one that does not end.
        deliver: called once a batch with the answers that are complete.
    """

    def __init__(
        self,
        batcher: Batcher,
        inbox: Inbox,
        aboard: Aboard,
        watchdog_seconds: float,
        metrics: Metrics,
        deliver: Callable[[list[Delivery]], object],
    ) -> None:
        self._batcher = batcher
        self._inbox = inbox
        self._metrics = metrics
        self._deliver = deliver
        self._names: list[str] = []
        self._cold: list[tuple[ServedModel, int]] = []
        self._depths: dict[str, int] = {}
        self._seals = SealWatch([])
        self._pace = Pace()
        self._caps = Caps({}, batcher, metrics)
        self._runner = Runner(aboard, self._caps, self._pace, batcher.cancel, watchdog_seconds, metrics)
        self._flight: Flight | None = None

    def open(self, name: str, proven: Proven) -> float:
        """Serve a model from now on.

        Returns:
            Seconds that one more example of it costs, as its proof has measured.
        """
        self._names.append(name)
        self._seals.add(proven.guard)
        self._cold += [(proven.model, size) for size in proven.cold]
        self._batcher.open(name, proven.model.cap)
        self._caps.learn(name, proven.model.sizes)
        self._runner.open(name, proven.model, proven.guard)
        for size, seconds in proven.batch_seconds.items():
            self._pace.record(name, size, seconds)
        return self._pace.example_seconds(name)

    def answer_a_turn(self) -> None:
        """Answer what waits, a batch of each model at most."""
        self._inbox.take_in()
        for _ in range(min(len(self._names), len(self._batcher))):
            if flight := self._begin():
                self._finish(flight)

    def step(self) -> None:
        """Wait for work, drop what nobody waits for, run one batch, hand the answers over; then a look at the seals."""
        if self._flight or self._wait_for_work():
            self._answer()
            self._seals.worked()
            self._check_seal()
        elif self._cold:
            model, size = self._cold.pop()
            model.warm_up([size])
        else:
            self._check_seal()

    def _wait_for_work(self) -> bool:
        """Wait until requests do; False if there is something to do before they come."""
        self._inbox.take_in()
        while not len(self._batcher):
            spare = 0.0 if self._cold else self._seals.due_in()
            if spare == 0:
                return False
            self._inbox.wait(spare)
        return True

    def _check_seal(self) -> None:
        if self._seals.due_in() == 0:
            try:
                self._seals.step()
            except CaughtError as caught:
                self._end(caught)

    def _end(self, caught: CaughtError) -> NoReturn:
        """End the process: a model that was caught answers nothing more. Its requests go to the next engine."""
        log.error("model caught", model=caught.model, cause=caught.code.cause, detail=str(caught))
        if caught.code is ExitCode.VIOLATION:
            self._metrics.grad_graph_violations.labels(caught.model).inc()
        elif caught.code is ExitCode.SEAL_BROKEN:
            self._metrics.seal_intact.labels(caught.model).set(0)
        end_process(caught.code)

    def _answer(self) -> None:
        """End the batch under way, or one that begins now; where they overlap, the next one begins before it ends."""
        flight = self._flight or self._begin()
        self._flight = self._begin() if flight and self._is_followed(flight) else None
        if flight:
            self._finish(flight)

    def _finish(self, flight: Flight) -> None:
        try:
            answers = self._runner.end(flight)
        except CaughtError as caught:
            self._end(caught)
        self._deliver(self._with_forecast(flight.batch.model, answers))
        self._runner.count()

    def _is_followed(self, flight: Flight) -> bool:
        fewest = self._runner.followed_by(flight)
        self._inbox.take_in()
        return 0 < fewest <= self._batcher.next_in_company(flight.batch.model)

    def _begin(self) -> Flight | None:
        batch, dropped = self._next_batch()
        if dropped:
            late = DeadlineExceeded.name
            self._deliver([(r, Failure(r.id, late, "The deadline passed in the queue.")) for r in dropped])
        return self._runner.begin(batch) if batch else None

    def _next_batch(self) -> tuple[Batch | None, list[Request]]:
        self._inbox.take_in()
        shortest = {name: self._pace.shortest(name, self._batcher.next_size(name)) for name in self._names}
        dropped = self._batcher.drop_gone(time.monotonic(), shortest)
        batch = self._batcher.take()
        self._tell_depths()
        return batch, dropped

    def _tell_depths(self) -> None:
        for name in self._names:
            depth = self._batcher.depth(name)
            if depth != self._depths.get(name):
                self._depths[name] = depth
                self._metrics.queue_depth.labels(name).set(depth)

    def _with_forecast(self, model: str, answers: list[Delivery]) -> list[Delivery]:
        """Results say how long what waits will take, so that front ends refuse what would come too late.

        Reckoned once a batch: counting what waits goes through the queues.
        """
        self._inbox.take_in()
        if not len(self._batcher) and not self._flight:
            return answers
        waiting = {name: self._batcher.depth(name) for name in self._names}
        if self._flight:
            waiting[model] += self._flight.batch.size
        caps = {name: self._batcher.cap(name) for name in self._names}
        backlog = self._pace.backlog_seconds(model, waiting, caps)
        return [
            (request, msgspec.structs.replace(frame, backlog_seconds=backlog) if isinstance(frame, Result) else frame)
            for request, frame in answers
        ]
