"""The engines that a front end is connected to: they come, have successors, and die."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from service.frontend.engines.connection import EngineConnection, Pending
from service.frontend.engines.known import Known
from service.host.run_folder import check_own
from service.wire.messages import EngineDied, Generation, ModelState, Retire, any_up

log = structlog.get_logger()

#: An engine that cannot be reached is tried again after this: it puts a socket that was removed back.
CONNECT_AGAIN_SECONDS = 0.25


class Fleet:
    """One engine for each device at most, and those that have a successor and finish what they have.

    Args:
        known: what engines tell of their models is written there.
        told: called when an engine is turned to, and when it has more to tell of its models.
        lost: called with an engine that has died, once both pieces of news are here: the end of its stream, and the
            supervisor's word on the cause.
    """

    def __init__(
        self, known: Known, told: Callable[[], None], lost: Callable[[EngineConnection, EngineDied], None]
    ) -> None:
        self._known = known
        self._told = told
        self._lost = lost
        self._engines: dict[str, EngineConnection] = {}
        self._connections: dict[tuple[str, int], EngineConnection] = {}
        self._newest: dict[str, int] = {}
        self._wanted: set[str] = set()

    def __bool__(self) -> bool:
        """Tell whether any engine is up."""
        return bool(self._engines)

    def is_up(self, model: str) -> bool:
        """Tell whether a living engine serves it now."""
        return any(engine.serves(model) for engine in self._engines.values())

    def serving(self, model: str) -> list[EngineConnection]:
        """Return the engines that can be sent a request for this model."""
        return [engine for engine in self._engines.values() if not engine.closed and engine.serves(model)]

    def unanswered(self) -> Iterator[Pending]:
        """Yield every request that some engine has."""
        for engine in self._connections.values():
            yield from engine.pending.values()

    def want(self, model: str) -> None:
        """Tell engines that bring several models up which one somebody waits for; also those that are yet to come."""
        self._wanted.add(model)
        for engine in self._engines.values():
            engine.want(model)

    # Engines come

    async def connect(self, generation: Generation) -> None:
        """Connect to a new engine; from then on requests for its device go there, and orphans first.

        One that is known already has more to tell of its models.

        Raises:
            OSError: it has ended, or has a successor, before it could be reached.
        """
        if known := self._connections.get((generation.device, generation.number)):
            known.learn(generation)
            self._serve_from(known)
            return
        engine = EngineConnection(generation, self._ended)
        # Known from now on: the news of its death may come before the connection.
        self._connections[engine.key] = engine
        try:
            await self._reach(engine)
        except OSError:
            self._connections.pop(engine.key, None)
            raise
        if engine.closed:
            raise ConnectionResetError(f"engine {generation.number} of {generation.device} ended at once")
        if engine.retired or self._is_overtaken(generation):  # its successor was quicker to connect
            engine.retire()
            return
        self._newest[generation.device] = generation.number
        before = self._engines.get(generation.device)
        self._engines[generation.device] = engine
        self._known.default_model = generation.default_model or self._known.default_model
        self._serve_from(engine)
        if before:
            before.retire()

    async def _reach(self, engine: EngineConnection) -> None:
        """Connect to an engine, again and again until it can be reached or nobody needs it any more.

        Raises:
            OSError: the latter.
        """
        generation = engine.generation
        path = Path(generation.socket)
        told = False
        while True:
            try:
                check_own(path.parent)
                await asyncio.get_running_loop().create_unix_connection(lambda: engine, str(path))
                return
            except OSError as error:
                if engine.failed or engine.retired or self._is_overtaken(generation):
                    raise
                if not told:
                    log.warning("engine unreachable", device=generation.device, error=str(error), then="tried again")
                told = True
            await asyncio.sleep(CONNECT_AGAIN_SECONDS)

    def _is_overtaken(self, generation: Generation) -> bool:
        return generation.number < self._newest.get(generation.device, 0)

    def _serve_from(self, engine: EngineConnection) -> None:
        """Take in what an engine that is in use says of its models; requests that waited for them go there."""
        if self._engines.get(engine.generation.device) is not engine:  # still being connected to, or let go
            return
        if any_up(engine.generation.models):
            self._known.waiting.pop(engine.generation.device, None)
        self._known.models = self._all_models(engine.generation)
        self._wanted = {name for name in self._wanted if not self.is_up(name)}
        for name in self._wanted:
            engine.want(name)
        self._told()

    def _all_models(self, newest: Generation) -> dict[str, ModelState]:
        """Return what the engines that are up tell, the newest last; a model that failed there hides none that serves.

        One that is loading there hides none that was ready: requests are decoded for what it was, and wait.
        """
        told = [engine.generation for engine in self._engines.values() if engine.generation is not newest]
        models: dict[str, ModelState] = {}
        for state in itertools.chain.from_iterable(generation.models for generation in [*told, newest]):
            before = models.get(state.name) or self._known.models.get(state.name)
            if state.state == "loading" and before and before.state == "ready":
                models[state.name] = before
            elif state.state == "ready" or not self.is_up(state.name):
                models[state.name] = state
        return models

    # Engines go

    def retire(self, retire: Retire) -> None:
        """Send an engine nothing more; requests wait for its successor."""
        engine = self._connections.get((retire.device, retire.number))
        if engine and self._engines.get(retire.device) is engine:
            del self._engines[retire.device]
            self._tell_of_the_living()
            engine.retire()
        elif engine:  # it is still being connected to
            engine.retired = True

    def failed(self, failed: EngineDied) -> None:
        """Take the supervisor's word on an engine's death: the cause, and the requests that were aboard."""
        engine = self._connections.get((failed.device, failed.number))
        if engine is None:
            return
        engine.failed = failed
        if engine.closed:  # otherwise its stream may still hold answers: wait for the end
            self._forget(engine)

    def _ended(self, engine: EngineConnection) -> None:
        """Note that the stream has ended; the cause comes from the supervisor, before or after."""
        if self._engines.get(engine.generation.device) is engine:
            del self._engines[engine.generation.device]
            self._tell_of_the_living()
        if engine.failed or not engine.pending:
            self._forget(engine)

    def _forget(self, engine: EngineConnection) -> None:
        del self._connections[engine.key]
        if engine.pending and engine.failed:
            self._lost(engine, engine.failed)

    def _tell_of_the_living(self) -> None:
        """Tell, after an engine has gone, what others serve as they serve it, or nobody could decode for them."""
        for engine in self._engines.values():
            self._known.models |= {state.name: state for state in engine.generation.models if state.state == "ready"}

    def close(self) -> None:
        """Let every engine go: this front end needs nothing more."""
        for engine in list(self._engines.values()):
            engine.retire()
