"""The front ends of a server: each is started again when it dies."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from service.loader.repository import Catalogue
from service.supervisor.launch import run_front_end
from service.supervisor.processes import Child
from service.supervisor.run import Run
from service.wire.messages import AnyFrame, Frame
from service.wire.specs import FrontEndSpec

log = structlog.get_logger()

#: A front end that dies sooner is started again after this.
BACKOFF_SECONDS = 0.5


@dataclass
class FrontEndChild:
    spec: FrontEndSpec
    child: Child
    started: float = field(default_factory=time.monotonic)


class FrontEnds:
    """Keeps the front ends up, until the server stops.

    Args:
        listeners: the sockets that each of them accepts connections from.
        stop: set when none is started any more.
        catalogue: returns the models that are served now.
        news: returns what a front end that starts has to know.
        received: called with each frame of a front end.
    """

    def __init__(
        self,
        run: Run,
        listeners: Sequence[socket.socket],
        stop: asyncio.Event,
        catalogue: Callable[[], Catalogue],
        news: Callable[[], Iterable[Frame]],
        received: Callable[[AnyFrame], None],
    ) -> None:
        self._run = run
        self._listeners = listeners
        self._stop = stop
        self._catalogue = catalogue
        self._news = news
        self._received = received
        self._starts = itertools.count(1)
        self._living: dict[int, FrontEndChild] = {}

    def begin(self, count: int) -> None:
        for number in range(count):
            self._run.spawn(self._keep(number))

    def children(self) -> list[Child]:
        return [front_end.child for front_end in self._living.values()]

    def broadcast(self, frame: Frame) -> None:
        for child in self.children():
            child.send(frame)

    async def _keep(self, number: int) -> None:
        """Start a front end, and another one when it has died; after one that died at once, with a delay."""
        while not self._stop.is_set():
            lived = 0.0
            try:
                front_end = await self._start(number)
            except (OSError, EOFError) as error:
                log.error("front end could not be started", number=number, error=f"{type(error).__name__}: {error}")
            else:
                lived = await self._watch(front_end)
            await asyncio.sleep(0.0 if lived > BACKOFF_SECONDS else BACKOFF_SECONDS)

    async def _start(self, number: int) -> FrontEndChild:
        catalogue, run = self._catalogue(), self._run
        required = {name: folder.card.required for name, folder in catalogue.folders.items()}
        required |= dict.fromkeys(catalogue.broken, False)
        spec = FrontEndSpec(number, next(self._starts), catalogue.default_model, required, run.memory, run.settings)
        child = Child(f"front end {number}", self._received)
        await child.start(run.fork_server, run_front_end, self._listeners, spec)
        front_end = self._living[number] = FrontEndChild(spec, child)
        for frame in self._news():
            child.send(frame)
        return front_end

    async def _watch(self, front_end: FrontEndChild) -> float:
        """Wait for its end; returns the seconds that it lived."""
        cause = await front_end.child.ended()
        number = front_end.spec.number
        del self._living[number]
        if not self._stop.is_set():
            log.error("front end died", number=number, cause=cause)
        return time.monotonic() - front_end.started
