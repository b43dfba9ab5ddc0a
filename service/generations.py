"""The engines of every device: started, watched, turned to, retired.

A generation is one life of an engine process. A device has one that serves, and for a time one that starts beside
it, or some that have a successor and finish what they had accepted.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import string
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from prometheus_client.multiprocess import mark_process_dead

from service.cores import usable_cores
from service.engine.aboard import read_aboard
from service.engine.wire import AnyFrame, Drain, Failed, Frame, Generation, Ready, Retire, Waiting
from service.launch import run_engine
from service.loader.report import Tuning
from service.loader.repository import Catalogue
from service.metrics import Metrics
from service.processes import Child, ForkServer, wait_for_end
from service.settings import Settings
from service.specs import EngineSpec, ExitCode

log = structlog.get_logger()

#: An engine has so long to leave once nobody needs it.
ENGINE_DRAIN_SECONDS = 5.0
#: A child that dies without having done anything is started again after this, doubled each time up to the most.
BACKOFF_SECONDS, MOST_BACKOFF_SECONDS = 0.5, 30.0


@dataclass(eq=False)
class Engine:
    """One generation of one device's engine.

    Attributes:
        slot: its letter among the living engines of its device; metrics and TMPDIR are kept under it.
        ready: what it serves, once it does; None when it ended before.
        retired: it has a successor, or nobody needs it.
    """

    device: str
    number: int
    slot: str
    child: Child
    spec: EngineSpec
    catalogue: Catalogue
    ready: asyncio.Future[Ready | None]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    cause: str = ""
    retired: bool = False

    @property
    def serving(self) -> Ready | None:
        return self.ready.result() if self.ready.done() else None

    def dismiss(self) -> None:
        """End an engine that serves nobody."""
        self.retired = True
        self.child.kill()


@dataclass(eq=False)
class Device:
    """Who serves a device. `failures` counts the starts in a row that came to nothing."""

    name: str
    waiting: Waiting
    current: Engine | None = None
    starting: Engine | None = None
    living: list[Engine] = field(default_factory=list)
    failures: int = 0
    vacant: asyncio.Event = field(default_factory=asyncio.Event)
    occupied: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, engine: Engine) -> Engine | None:
        """From now on this engine serves; returns the one before it."""
        before, self.current = self.current, engine
        self.vacant.clear()
        self.occupied.set()
        return before

    def vacate(self) -> Engine | None:
        before, self.current = self.current, None
        self.occupied.clear()
        self.vacant.set()
        return before

    def free_slot(self) -> str:
        """Never that of a living process: two would write the same files."""
        return next(letter for letter in string.ascii_lowercase if letter not in {e.slot for e in self.living})


class Generations:
    """Keeps an engine on every device, and replaces it when told to.

    Args:
        catalogue: the models to serve.
        folder: of this run of the server.
        spawn: runs a task in the background.
        broadcast: sends a frame to every front end.
        changed: called when a device has another engine, or none.
    """

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        folder: Path,
        fork_server: ForkServer,
        metrics: Metrics,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        broadcast: Callable[[Frame], None],
        changed: Callable[[Device], None],
    ) -> None:
        self.catalogue = catalogue
        self.devices: dict[str, Device] = {}
        self._settings = settings
        self._folder = folder
        self._fork_server = fork_server
        self._metrics = metrics
        self._spawn = spawn
        self._broadcast = broadcast
        self._changed = changed
        self._numbers = itertools.count(1)
        self._tunings: dict[str, Tuning] = {}
        self._stopping = False

    def begin(self, names: Iterable[str]) -> None:
        """Bring every device up, and keep it up."""
        for name in names:
            device = self.devices[name] = Device(name, Waiting(name, "", time.monotonic()))
            device.vacate()
            self._metrics.engine_up.labels(name).set(0)
            for code in ExitCode:  # alerts look for increases, which a counter that appears at 1 does not show
                self._metrics.engine_restarts.labels(name, code.cause)
            self._spawn(self._keep_up(device))

    def living(self) -> list[Engine]:
        return [engine for device in self.devices.values() for engine in device.living]

    def is_serving(self) -> bool:
        """Whether any model can be answered."""
        current = [device.current.serving for device in self.devices.values() if device.current]
        return any(model.state == "ready" for ready in current if ready for model in ready.models)

    def news(self) -> list[Frame]:
        """What a front end that starts has to know."""
        frames: list[Frame] = []
        for device in self.devices.values():
            ready = device.current and device.current.serving
            frames.append(generation(device.current, ready) if device.current and ready else device.waiting)
        return frames

    # One engine's life

    async def start(self, device: Device, catalogue: Catalogue) -> Engine:
        """Start an engine beside those that the device has, and watch it to its end."""
        number, slot = next(self._numbers), device.free_slot()
        role = f"engine-{device.name.replace(':', '')}-{slot}"
        spec = EngineSpec(
            device=device.name,
            number=number,
            role=role,
            socket=self._folder / f"engine-{number}.sock",
            aboard=self._folder / f"engine-{number}.aboard",
            temporary=self._folder / role,
            metrics=self._folder / "metrics",
            threads=self._settings.threads or max(1, usable_cores() // len(self.devices)),
            tunings=dict(self._tunings),
            folders=list(catalogue.folders.values()),
            settings=self._settings,
        )
        spec.temporary.mkdir(exist_ok=True)
        child = Child(f"engine {device.name}", lambda frame: _received(engine, frame))
        ready: asyncio.Future[Ready | None] = asyncio.get_running_loop().create_future()
        engine = Engine(device.name, number, slot, child, spec, catalogue, ready)
        device.living.append(engine)
        await child.start(self._fork_server, run_engine, spec)
        self._spawn(self._watch(device, engine))
        return engine

    async def _watch(self, device: Device, engine: Engine) -> None:
        engine.cause = await engine.child.ended()
        seen = read_aboard(engine.spec.aboard)
        await asyncio.to_thread(self._wipe, engine)
        device.living.remove(engine)
        engine.ended.set()
        if not engine.ready.done():
            engine.ready.set_result(None)
        if not (engine.retired or self._stopping):
            words = {"device": engine.device, "generation": engine.number, "cause": engine.cause}
            log.error("engine died", **words, aboard=len(seen.ids))
        if engine is device.current and not self._stopping:
            self._metrics.engine_up.labels(device.name).set(0)
            self._metrics.engine_restarts.labels(device.name, engine.cause).inc()
            device.failures = 0 if seen.finished else device.failures + 1
            device.vacate()
            self._changed(device)
        self._broadcast(Failed(engine.device, engine.number, engine.cause, seen.ids))

    def _wipe(self, engine: Engine) -> None:
        """Leave nothing of a dead engine but its counters, which the next one in its slot goes on with."""
        engine.spec.aboard.unlink(missing_ok=True)
        engine.spec.socket.unlink(missing_ok=True)
        mark_process_dead(engine.spec.role, str(engine.spec.metrics))  # type: ignore[no-untyped-call]
        shutil.rmtree(engine.spec.temporary, ignore_errors=True)

    def retire(self, engine: Engine) -> None:
        """It finishes what it has and ends; one that does not is ended."""
        engine.retired = True
        limit = self._settings.max_timeout_ms / 1000
        engine.child.send(Drain(0.0, limit))
        self._spawn(_see_off(engine, limit + ENGINE_DRAIN_SECONDS))

    # Who serves a device

    def turn_to(self, device: Device, engine: Engine) -> None:
        """A ready engine takes over: front ends turn to it, and the one before it finishes and ends."""
        ready = engine.serving
        assert ready is not None
        before = device.take(engine)
        if device.starting and device.starting is not engine:
            device.starting.dismiss()
        device.starting = None
        self._tunings = {model.version: model.tuning for model in ready.models if model.tuning}
        self._metrics.engine_up.labels(device.name).set(1)
        self._broadcast(generation(engine, ready))
        if before:
            self.retire(before)
        self._changed(device)

    async def let_go(self, device: Device) -> None:
        """Free the device: requests wait for its next engine, while the one it has finishes and ends."""
        if device.starting:
            device.starting.dismiss()
        if before := device.vacate():
            self._metrics.engine_up.labels(device.name).set(0)
            self._wait_for(device, f"engine {before.number} finishes, and its successor starts")
            self._broadcast(Retire(before.device, before.number))
            self.retire(before)
            self._changed(device)
        await self.old_ones_gone(device)

    async def old_ones_gone(self, device: Device) -> None:
        """Wait for those that have a successor to end, so that a device never has to hold more than two engines."""
        for engine in [engine for engine in device.living if engine.retired]:
            await engine.ended.wait()

    async def _keep_up(self, device: Device) -> None:
        """Whenever the device has no engine, start one; after one that had not worked, with a delay."""
        while True:
            await device.vacant.wait()
            if self._settings.replace == "stop-first":
                await self.old_ones_gone(device)
            if delay := backoff(device.failures):
                words = f"its engine ended {device.failures} times in a row; the next starts after {delay:g} s"
                self._wait_for(device, words)
                await asyncio.sleep(delay)
            if device.current is None:
                await self._start_for_good(device)

    async def _start_for_good(self, device: Device) -> None:
        self._wait_for(device, f"its engine loads and proves {', '.join(self.catalogue.folders)}")
        engine = device.starting = await self.start(device, self.catalogue)
        ready = await engine.ready
        if device.starting is not engine:  # a reload was quicker
            return
        device.starting = None
        if ready:
            self.turn_to(device, engine)
        elif not engine.retired:
            self._metrics.engine_restarts.labels(device.name, engine.cause).inc()
            device.failures += 1

    def _wait_for(self, device: Device, detail: str) -> None:
        device.waiting = Waiting(device.name, detail, time.monotonic())
        self._broadcast(device.waiting)

    def stop(self) -> None:
        """Front ends have left: none is replaced any more, and those that never served end now."""
        self._stopping = True
        for engine in self.living():
            if not engine.serving:
                engine.child.kill()


def _received(engine: Engine, frame: AnyFrame) -> None:
    if isinstance(frame, Ready) and not engine.ready.done():
        engine.ready.set_result(frame)


async def _see_off(engine: Engine, limit: float) -> None:
    try:
        async with asyncio.timeout(limit):
            await wait_for_end(engine.child.pid)
    except TimeoutError:
        engine.child.kill()


def generation(engine: Engine, ready: Ready) -> Generation:
    socket, default = str(engine.spec.socket), engine.catalogue.default_model
    return Generation(engine.device, engine.number, socket, ready.models, default)


def backoff(failures: int) -> float:
    """Seconds to wait before the next start: none after a child that had worked."""
    return min(MOST_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** (failures - 1)) if failures else 0.0
