"""The front end's side of the engines: send, await, and send again when an engine dies.

Every unanswered request is kept here. A frozen model is a pure function, so running a request twice is safe,
and an engine's death costs its requests time and nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import AbstractContextManager
from typing import Protocol

import structlog

from service.errors import Draining, ModelNotFound, NotReady, NotReplayed
from service.frontend.engines.blame import blame
from service.frontend.engines.connection import EngineConnection, Pending
from service.frontend.engines.fleet import Fleet
from service.frontend.engines.known import Known
from service.frontend.engines.orphans import Orphans
from service.frontend.engines.places import Outlook, Places
from service.metrics import Metrics
from service.tasks.inputs.input import Arrays
from service.wire.messages import Cancel, EngineDied, Infer, ModelState, Result, Tensors

log = structlog.get_logger()

#: An id's lower bits count the requests of one front end: a trillion.
_COUNT_BITS = 40


class InputChangedError(Exception):
    """The model takes other inputs than these were made for: its card has changed meanwhile."""


class Client(Protocol):
    """The questions of a front end to its engines, whatever runs them."""

    known: Known
    places: Places

    def is_up(self, model: str) -> bool:
        """Tell whether a living engine serves it now."""

    def want(self, model: str) -> None:
        """Say that somebody waits for a model that is not ready yet."""

    def admit(self, model: str, count: int, nbytes: int, deadline: float) -> AbstractContextManager[None]:
        """Hold places for `count` examples, of `nbytes` in all, to be answered by `deadline` (CLOCK_MONOTONIC seconds).

        Raises:
            Overloaded: on entry, where there are not enough places, or an answer would come too late.
        """

    async def infer(self, state: ModelState, count: int, arrays: Arrays, deadline: float) -> tuple[Result, ModelState]:
        """Return the outputs for `count` examples, and the model that gave them.

        `state` is the model that the arrays, `(count, ...)` for each input, were made for; another generation of it
        answers if it takes the same.

        Raises:
            DeadlineExceeded: `deadline` (CLOCK_MONOTONIC seconds) passed.
            InputChangedError: no engine takes these arrays any more; read the request again.
            Refusal: what the engine says went wrong with it.
        """


class EngineClient(Client):
    """Sends each request to the engine with the least outstanding work, and keeps it until it is answered.

    Args:
        start: a number that no other front end of this server has or had; request ids begin with it.
        places: how much may be accepted and unanswered at once.
    """

    def __init__(self, start: int, known: Known, places: Places, metrics: Metrics) -> None:
        self.known = known
        self.places = places
        self.fleet = Fleet(known, self._send_orphans, self._replay)
        self._ids = itertools.count(start << _COUNT_BITS)
        self._metrics = metrics
        self._orphans = Orphans()

    def is_up(self, model: str) -> bool:
        return self.fleet.is_up(model)

    def want(self, model: str) -> None:
        self.fleet.want(model)

    def admit(self, model: str, count: int, nbytes: int, deadline: float) -> AbstractContextManager[None]:
        return self.places.hold(count, nbytes, self._outlook(model, count), deadline)

    def _outlook(self, model: str, count: int) -> Outlook:
        """Forecast what the least busy engine would do with this many examples.

        What is admitted and still being decoded counts too. With no engine up nobody can tell: 0, and it waits.
        """
        engines = self.fleet.serving(model)
        if not engines:
            return Outlook()
        now = time.monotonic()
        engine = min(engines, key=lambda engine: engine.forecast.wait(now, model))
        decoding = self.places.taken - sum(engine.outstanding for engine in engines) - self._orphans.examples
        wait = engine.forecast.wait(now, model) + engine.forecast.cost(model, max(0, decoding)) / len(engines)
        return Outlook(wait, engine.forecast.cost(model, max(count, *engine.models[model].batch_sizes, 1)))

    async def infer(self, state: ModelState, count: int, arrays: Arrays, deadline: float) -> tuple[Result, ModelState]:
        frame = Infer(
            next(self._ids), state.name, count, deadline, False, Tensors.of(*[array.data for array in arrays])
        )
        loop = asyncio.get_running_loop()
        pending = Pending(frame, loop.create_future(), state.decoded_for)
        expiry = loop.call_later(deadline - time.monotonic(), pending.expire)
        self._dispatch(pending)
        try:
            return await pending.future
        finally:
            expiry.cancel()
            self._forget(pending)

    def _dispatch(self, pending: Pending) -> None:
        """Send to the engine that will be done first; with none up, hold until the next one or the deadline."""
        model = pending.frame.model
        engines = self.fleet.serving(model)
        fitting = [engine for engine in engines if engine.models[model].decoded_for == pending.decoded_for]
        if engines and not fitting:
            pending.future.set_exception(InputChangedError())
        elif engines:
            now = time.monotonic()
            min(fitting, key=lambda engine: (engine.forecast.load(now), engine.outstanding)).dispatch(pending)
        else:
            self._hold(pending)

    def _hold(self, pending: Pending) -> None:
        """Keep a request that no engine serves for the next one, unless those that are up know better."""
        state = self.known.models.get(pending.frame.model)
        if self.fleet and state is None:
            pending.future.set_exception(ModelNotFound(f"{pending.frame.model} is not served any more."))
        elif self.fleet and state and state.state == "failed":
            pending.future.set_exception(NotReady(state.detail))
        else:
            self._orphans.add(pending)
            self.fleet.want(pending.frame.model)

    def _forget(self, pending: Pending) -> None:
        """Drop a request that nobody waits for; an unanswered one frees its place in the engine too."""
        self._orphans.discard(pending)
        if pending.engine:
            pending.engine.send_soon(Cancel(pending.frame.id))
            pending.engine.release(pending.frame.id)

    def _send_orphans(self) -> None:
        """Send what waited: an engine has come, or serves more models than before."""
        for pending in self._orphans.take_all():
            if not pending.future.done():  # late, or left, in this very turn of the loop
                self._dispatch(pending)

    def _replay(self, engine: EngineConnection, failed: EngineDied) -> None:
        """Send everything that a dead engine has not answered to another."""
        cause, aboard = failed.cause, set(failed.aboard)
        log.warning("replaying", device=engine.generation.device, cause=cause, requests=len(engine.pending))
        for pending in list(engine.pending.values()):
            engine.release(pending.frame.id)
            if pending.future.done():  # cancelled, and about to be forgotten
                continue
            if not engine.is_repeatable(pending.frame.model):
                words = "The model's process ended, and its card says that it may not run a request twice."
                pending.future.set_exception(NotReplayed(words))
            elif pending.frame.id in aboard:
                blame(pending, cause)
            if not pending.future.done():
                self._metrics.replayed.labels(pending.frame.model).inc()
                self._dispatch(pending)

    def give_up(self) -> None:
        """Answer everybody who still waits: the drain is over."""
        for pending in [*self._orphans, *self.fleet.unanswered()]:
            if not pending.future.done():
                words = "The server is shutting down, and the model had not answered when its time was over."
                pending.future.set_exception(Draining(words))
