"""One device and its engines: one that serves, one that starts beside it, and some that have a successor."""

from __future__ import annotations

import asyncio
import string
from dataclasses import dataclass, field

from service.loader.repository import Catalogue
from service.supervisor.processes import Child
from service.wire.messages import Generation, ModelState, Ready, Waiting
from service.wire.specs import EngineSpec


@dataclass(eq=False)
class EngineChild:
    """One generation of one device's engine, as the supervisor sees it.

    Attributes:
        slot: its letter among the living engines of its device; metrics and TMPDIR are kept under it.
        ready: the last that it has said of its models; None until it listens.
        listens: done when it listens, or has ended.
        complete: done when every model is ready or has failed, or it has ended.
        retired: it has a successor, or nobody needs it.
    """

    device: str
    number: int
    slot: str
    child: Child
    spec: EngineSpec
    catalogue: Catalogue
    listens: asyncio.Future[None]
    complete: asyncio.Future[None]
    ready: Ready | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    cause: str = ""
    retired: bool = False

    @property
    def models(self) -> list[ModelState]:
        """Return what it has said of its models; nothing until it listens."""
        return self.ready.models if self.ready else []

    def told(self, ready: Ready) -> None:
        self.ready = ready
        _settle(self.listens)
        if ready.complete:
            _settle(self.complete)

    def has_ended(self) -> None:
        """End every wait for it."""
        self.ended.set()
        _settle(self.listens)
        _settle(self.complete)

    def dismiss(self) -> None:
        """End an engine that serves nobody."""
        self.retired = True
        self.child.kill()

    def generation(self) -> Generation:
        """Return what front ends are told of an engine that serves."""
        socket, default = str(self.spec.socket), self.catalogue.default_model
        return Generation(self.device, self.number, socket, self.models, default)


@dataclass(eq=False)
class Device:
    """One device. `failures` counts the starts in a row that came to nothing."""

    name: str
    waiting: Waiting
    current: EngineChild | None = None
    starting: EngineChild | None = None
    living: list[EngineChild] = field(default_factory=list)
    failures: int = 0
    vacant: asyncio.Event = field(default_factory=asyncio.Event)
    occupied: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def models(self) -> list[ModelState]:
        """Return what the engine that serves it has said of its models; nothing where there is none."""
        return self.current.models if self.current else []

    def take(self, engine: EngineChild) -> EngineChild | None:
        """Have this engine serve from now on; returns the one before it."""
        before, self.current = self.current, engine
        self.vacant.clear()
        self.occupied.set()
        return before

    def vacate(self) -> EngineChild | None:
        before, self.current = self.current, None
        self.occupied.clear()
        self.vacant.set()
        return before

    def free_slot(self) -> str:
        """Return a letter that no living engine has: two would write the same files."""
        return next(letter for letter in string.ascii_lowercase if letter not in {e.slot for e in self.living})

    async def old_ones_gone(self) -> None:
        """Wait for those that have a successor to end, so that a device never has to hold more than two engines."""
        for engine in [engine for engine in self.living if engine.retired]:
            await engine.ended.wait()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
