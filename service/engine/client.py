"""The front end's side of the engines: send, await, and send again when an engine dies.

Every unanswered request is kept here. A frozen model is a pure function, so running a request twice is safe,
and an engine's death costs its requests time and nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import structlog

from service.engine.connection import EngineConnection, Pending
from service.engine.wire import (
    Cancel,
    Failed,
    Failure,
    Generation,
    Infer,
    ModelState,
    Result,
    Retire,
    Waiting,
)
from service.errors import (
    BY_NAME,
    Draining,
    InputCrashesModel,
    ModelNotFound,
    NotReady,
    NotReplayed,
    Overloaded,
)
from service.loader.report import Verdict
from service.metrics import Metrics
from service.specs import ExitCode

log = structlog.get_logger()

Pixels = npt.NDArray[np.uint8]

#: Deaths that an input can cause, as can a process that ends by itself (`exit N`); those aboard get a strike.
CRASHES = frozenset(
    {"SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "watchdog", *(code.cause for code in ExitCode)}
)
#: Any other (SIGKILL: out of memory, an operator) is nobody's fault, until it has hit the same request so often.
KILLS_FOR_A_STRIKE = 5
#: A wait is taken for so much longer than forecast: who is let in and then late has cost others their place.
PRUDENCE = 1.1
#: An id's lower bits count the requests of one front end: a trillion.
_COUNT_BITS = 40


class InputChangedError(Exception):
    """The model takes another input than the pixels were decoded for: its card has changed meanwhile."""


class EngineClient:
    """Sends each request to the engine with the least outstanding work, and keeps it until it is answered.

    Args:
        start: a number that no other front end of this server has or had; request ids begin with it.
        max_examples: the most examples accepted and unanswered at once.
    """

    def __init__(self, start: int, max_examples: int, metrics: Metrics) -> None:
        self._ids = itertools.count(start << _COUNT_BITS)
        self._max_examples = max_examples
        self._metrics = metrics
        self._engines: dict[str, EngineConnection] = {}
        self._connections: dict[tuple[str, int], EngineConnection] = {}
        self._orphans: dict[int, Pending] = {}
        self._examples = 0
        self._newest: dict[str, int] = {}
        #: By device that has no engine, what is waited for.
        self.waiting: dict[str, Waiting] = {}
        self.default_model = ""
        #: By name and version, what came of compiling a model that is served eager.
        self.verdicts: dict[tuple[str, str], Verdict] = {}
        #: Every model by name, as the newest generation tells it; a failed one hides none that still serves.
        self.models: dict[str, ModelState] = {}

    def is_up(self, model: str) -> bool:
        """Whether a living engine serves it now."""
        return any(engine.serves(model) for engine in self._engines.values())

    # One request

    @contextmanager
    def admit(self, model: str, count: int, deadline: float) -> Iterator[None]:
        """Hold places for `count` examples that shall be answered before `deadline` (CLOCK_MONOTONIC seconds).

        Raises:
            Overloaded: there are not so many places left, or what is there already would take longer than that.
        """
        now = time.monotonic()
        wait, batch = self._forecast(model, count, now)
        finish = now + PRUDENCE * wait + batch
        if self._examples + count > self._max_examples:
            raise Overloaded(f"{self._examples} pictures are waiting; the most is {self._max_examples}.", wait)
        if wait and finish > deadline:
            words = f"An answer would take about {finish - now:.1f} s; the deadline is in {deadline - now:.1f} s."
            raise Overloaded(words, finish - deadline)
        self._examples += count
        try:
            yield
        finally:
            self._examples -= count

    def has_no_more_than(self, count: int) -> bool:
        """Whether so many examples, or fewer, are admitted and not answered."""
        return self._examples <= count

    def _forecast(self, model: str, count: int, now: float) -> tuple[float, float]:
        """Seconds until the least busy engine begins with so many examples, and those of the batch that they ride in.

        What is admitted and still being decoded counts too. With no engine up nobody can tell: 0, and it waits.
        """
        engines = [engine for engine in self._engines.values() if not engine.closed and engine.serves(model)]
        if not engines:
            return 0.0, 0.0
        engine = min(engines, key=lambda engine: engine.forecast.wait(now, model))
        decoding = self._examples - sum(engine.outstanding for engine in engines) - len(self._orphans)
        wait = engine.forecast.wait(now, model) + engine.forecast.cost(model, max(0, decoding)) / len(engines)
        return wait, engine.forecast.cost(model, max(count, *engine.models[model].batch_sizes, 1))

    async def infer(self, state: ModelState, pixels: Pixels, top_k: int, deadline: float) -> tuple[Result, ModelState]:
        """Classes of every example of `pixels`, `(N, 3, H, W) uint8`, and the model that gave them.

        `state` is the model that they were decoded for; another generation of it answers if it takes the same input.

        Raises:
            DeadlineExceeded: `deadline` (CLOCK_MONOTONIC seconds) passed.
            InputChangedError: no engine takes these pixels any more; decode the request again.
            Refusal: what the engine says went wrong with it.
        """
        frame = Infer(next(self._ids), state.name, len(pixels), top_k, deadline, False, pixels.reshape(-1).data)
        loop = asyncio.get_running_loop()
        pending = Pending(frame, loop.create_future(), state.input)
        expiry = loop.call_later(deadline - time.monotonic(), pending.expire)
        self._dispatch(pending)
        try:
            return await pending.future
        finally:
            expiry.cancel()
            self._forget(pending)

    def _dispatch(self, pending: Pending) -> None:
        """To the engine that will be done first; with none up, it waits for the next one until its deadline."""
        model = pending.frame.model
        engines = [e for e in self._engines.values() if not e.closed and e.serves(model)]
        fitting = [e for e in engines if e.models[model].input == pending.decoded_for]
        if engines and not fitting:
            pending.future.set_exception(InputChangedError())
        elif engines:
            now = time.monotonic()
            min(fitting, key=lambda engine: (engine.forecast.load(now), engine.outstanding)).dispatch(pending)
        else:
            self._hold(pending)

    def _hold(self, pending: Pending) -> None:
        """With no engine that serves it, a request waits for the next one, unless those that are up know better."""
        state = self.models.get(pending.frame.model)
        if self._engines and state is None:
            pending.future.set_exception(ModelNotFound(f"{pending.frame.model} is not served any more."))
        elif self._engines and state and state.state == "failed":
            pending.future.set_exception(NotReady(state.detail))
        else:
            self._orphans[pending.frame.id] = pending

    def _forget(self, pending: Pending) -> None:
        """Nobody waits any more: an unanswered request frees its place in the engine too."""
        self._orphans.pop(pending.frame.id, None)
        if pending.engine:
            pending.engine.send_soon(Cancel(pending.frame.id))
            pending.engine.release(pending.frame.id)

    def answered(self, pending: Pending, frame: Result | Failure, engine: EngineConnection) -> None:
        if pending.future.done():
            return
        if isinstance(frame, Result):
            pending.future.set_result((frame, engine.models[pending.frame.model]))
        else:
            pending.future.set_exception(BY_NAME[frame.error](frame.detail))

    # Engines come and go

    async def turn_to(self, generation: Generation) -> None:
        """Connect to a new engine; from then on requests for its device go there, and orphans first.

        Raises:
            OSError: it cannot be reached.
        """
        engine = EngineConnection(self, generation)
        # Known from now on: the news of its death may come before the connection.
        self._connections[engine.key] = engine
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: engine, generation.socket)
        except OSError:
            self._connections.pop(engine.key, None)
            raise
        if engine.closed:
            raise ConnectionResetError(f"engine {generation.number} of {generation.device} ended at once")
        if generation.number < self._newest.get(generation.device, 0):  # its successor was quicker to connect
            engine.retire()
            return
        self._newest[generation.device] = generation.number
        before = self._engines.get(generation.device)
        self._engines[generation.device] = engine
        self.waiting.pop(generation.device, None)
        self.default_model = generation.default_model or self.default_model
        self.models = self._all_models(generation)
        if before:
            before.retire()
        orphans, self._orphans = self._orphans, {}
        for pending in orphans.values():
            if not pending.future.done():  # late, or left, in this very turn of the loop
                self._dispatch(pending)

    def _all_models(self, newest: Generation) -> dict[str, ModelState]:
        """What the engines that are up tell, the newest last; who has failed there hides none that still serves."""
        told = [engine.generation for engine in self._engines.values() if engine.generation is not newest]
        models: dict[str, ModelState] = {}
        for state in itertools.chain.from_iterable(generation.models for generation in [*told, newest]):
            if state.state == "ready" or not self.is_up(state.name):
                models[state.name] = state
        return models

    def let_go(self, retire: Retire) -> None:
        """Send an engine nothing more; requests wait for its successor."""
        engine = self._engines.get(retire.device)
        if engine and engine.generation.number == retire.number:
            del self._engines[retire.device]
            self._tell_of_the_living()
            engine.retire()

    def _tell_of_the_living(self) -> None:
        """After an engine has gone: what others serve is told as they serve it, or nobody could decode for them."""
        for engine in self._engines.values():
            self.models |= {state.name: state for state in engine.generation.models if state.state == "ready"}

    def connection_ended(self, engine: EngineConnection) -> None:
        """The stream has ended; what the engine died of comes from the supervisor, before or after."""
        if self._engines.get(engine.generation.device) is engine:
            del self._engines[engine.generation.device]
            self._tell_of_the_living()
        if engine.failed or not engine.pending:
            self._replay(engine)

    def engine_failed(self, failed: Failed) -> None:
        """The supervisor's word on an engine's death: why, and who was aboard."""
        engine = self._connections.get((failed.device, failed.number))
        if engine is None:
            return
        engine.failed = failed
        if engine.closed:  # otherwise its stream may still hold answers: wait for the end
            self._replay(engine)

    def _replay(self, engine: EngineConnection) -> None:
        """Send everything that a dead engine has not answered to another."""
        del self._connections[engine.key]
        if not engine.pending or not engine.failed:
            return
        cause, aboard = engine.failed.cause, set(engine.failed.aboard)
        log.warning("replaying", device=engine.generation.device, cause=cause, requests=len(engine.pending))
        for pending in list(engine.pending.values()):
            engine.release(pending.frame.id)
            if pending.future.done():  # cancelled, and about to be forgotten
                continue
            if not engine.is_repeatable(pending.frame.model):
                words = "The model's process ended, and its card says that it may not run a request twice."
                pending.future.set_exception(NotReplayed(words))
            elif pending.frame.id in aboard:
                self._blame(pending, cause)
            if not pending.future.done():
                self._metrics.replayed.labels(pending.frame.model).inc()
                self._dispatch(pending)

    @staticmethod
    def _blame(pending: Pending, cause: str) -> None:
        """A strike sends a request alone next time; a second one, alone, ends it."""
        if cause not in CRASHES and not cause.startswith("exit "):
            pending.kills += 1
            if pending.kills < KILLS_FOR_A_STRIKE:
                return
        if pending.frame.alone:
            words = f"The model's process ended twice over this input ({cause}), the second time with it alone."
            pending.future.set_exception(InputCrashesModel(words))
            return
        pending.frame = _alone(pending.frame)

    def give_up(self) -> None:
        """Answer everybody who still waits: the drain is over."""
        waiting = [*self._orphans.values()]
        for engine in self._connections.values():
            waiting += engine.pending.values()
        for pending in waiting:
            if not pending.future.done():
                words = "The server is shutting down, and the model had not answered when its time was over."
                pending.future.set_exception(Draining(words))

    def close(self) -> None:
        """Let every engine go: this front end needs nothing more."""
        for engine in list(self._engines.values()):
            engine.retire()


def _alone(frame: Infer) -> Infer:
    return Infer(frame.id, frame.model, frame.count, frame.top_k, frame.deadline, True, frame.pixels)
