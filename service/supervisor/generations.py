"""The engine that serves each device: started, turned to, replaced when it dies.

A generation is one life of an engine process. A device has one that serves, and for a time one that starts beside
it, or some that have a successor and finish what they had accepted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import structlog

from service.loader.repository import Catalogue
from service.loader.tuning import Tuning
from service.supervisor.engines import Device, EngineChild
from service.supervisor.lives import Lives
from service.supervisor.run import Run
from service.wire.aboard import LastSeen
from service.wire.messages import Frame, Retire, Waiting, any_up
from service.wire.specs import CAUSES

log = structlog.get_logger()

#: A child that dies without having done anything is started again after this, doubled each time up to the most.
BACKOFF_SECONDS, MOST_BACKOFF_SECONDS = 0.5, 30.0
#: The cause that is told of an engine that no process was started for.
NOT_STARTED = "not-started"


class Generations:
    """Keeps an engine on every device, and replaces it when told to.

    Args:
        catalogue: the models to serve.
        changed: called when a device has another engine, or none, or its engine's models have changed.
    """

    def __init__(self, run: Run, catalogue: Catalogue, changed: Callable[[Device], None]) -> None:
        self.catalogue = catalogue
        self.devices: dict[str, Device] = {}
        self._run = run
        self._changed = changed
        self._lives = Lives(run, self._told, self._ended)
        self._tunings: dict[str, Tuning] = {}

    def begin(self, names: Iterable[str]) -> None:
        """Bring every device up, and keep it up."""
        for name in names:
            device = self.devices[name] = Device(name, Waiting(name, "", time.monotonic()))
            device.vacate()
            self._run.metrics.engine_up.labels(name).set(0)
            for cause in CAUSES:  # alerts look for increases, which a counter that appears at 1 does not show
                self._run.metrics.engine_restarts.labels(name, cause)
            self._run.spawn(self._keep_up(device))

    def living(self) -> list[EngineChild]:
        return [engine for device in self.devices.values() for engine in device.living]

    def is_serving(self) -> bool:
        """Tell whether any model can be answered."""
        return any(model.state == "ready" for device in self.devices.values() for model in device.models)

    def news(self) -> list[Frame]:
        """Return what a front end that starts has to know."""
        return [
            device.current.generation() if device.current and device.current.ready else device.waiting
            for device in self.devices.values()
        ]

    # One engine

    async def start(self, device: Device, catalogue: Catalogue) -> EngineChild:
        """Start an engine beside those that the device has.

        Raises:
            OSError, EOFError: it could not be started.
        """
        return await self._lives.start(device, catalogue, len(self.devices), self._tunings)

    def _told(self, device: Device, engine: EngineChild) -> None:
        if engine is device.current:
            self._tell_of(device, engine)
            self._changed(device)

    def _ended(self, device: Device, engine: EngineChild, seen: LastSeen) -> None:
        if engine is device.current:
            self._run.metrics.engine_up.labels(device.name).set(0)
            self._run.metrics.engine_restarts.labels(device.name, engine.cause).inc()
            device.failures = 0 if seen.finished else device.failures + 1
            device.vacate()
            self._changed(device)

    # What serves a device

    def turn_to(self, device: Device, engine: EngineChild) -> None:
        """Have an engine take over: front ends turn to it, and the one before it finishes and ends."""
        before = device.take(engine)
        if device.starting and device.starting is not engine:
            device.starting.dismiss()
        device.starting = None
        self._tell_of(device, engine)
        if before:
            self._lives.retire(before)
        self._changed(device)

    async def settled(self, device: Device) -> EngineChild:
        """Return the engine that serves the device, once each of its models is ready or has failed."""
        while True:
            await device.occupied.wait()
            engine = device.current
            if engine:
                await engine.complete
            if engine and engine is device.current:
                return engine

    async def let_go(self, device: Device) -> None:
        """Free the device: requests wait for its next engine, while the one it has finishes and ends."""
        if device.starting:
            device.starting.dismiss()
        if before := device.vacate():
            self._run.metrics.engine_up.labels(device.name).set(0)
            self._wait_for(device, f"engine {before.number} finishes, and its successor starts")
            self._run.broadcast(Retire(before.device, before.number))
            self._lives.retire(before)
            self._changed(device)
        await device.old_ones_gone()

    def _tell_of(self, device: Device, engine: EngineChild) -> None:
        """Tell front ends what the engine that serves the device says of its models."""
        self._tunings |= {model.version: model.tuning for model in engine.models if model.tuning}
        self._run.metrics.engine_up.labels(device.name).set(any_up(engine.models))
        self._run.broadcast(engine.generation())

    async def _keep_up(self, device: Device) -> None:
        """Whenever the device has no engine, start one; after one that had not worked, with a delay."""
        while True:
            await device.vacant.wait()
            if self._run.settings.replace == "stop-first":
                await device.old_ones_gone()
            if delay := backoff(device.failures):
                words = f"its engine ended {device.failures} times in a row; the next starts after {delay:g} s"
                self._wait_for(device, words)
                await asyncio.sleep(delay)
            if device.current is None:
                await self._start_for_good(device)

    async def _start_for_good(self, device: Device) -> None:
        self._wait_for(device, f"its engine loads and proves {', '.join(self.catalogue.folders)}")
        try:
            engine = device.starting = await self.start(device, self.catalogue)
        except (OSError, EOFError) as error:
            log.error("engine could not be started", device=device.name, error=f"{type(error).__name__}: {error}")
            self._failed_to_start(device, NOT_STARTED)
            return
        await engine.listens
        if device.starting is not engine:  # a reload was quicker
            return
        device.starting = None
        if engine.ready and engine in device.living:
            self.turn_to(device, engine)
        elif not engine.retired:
            self._failed_to_start(device, engine.cause)

    def _failed_to_start(self, device: Device, cause: str) -> None:
        self._run.metrics.engine_restarts.labels(device.name, cause).inc()
        device.failures += 1

    def _wait_for(self, device: Device, detail: str) -> None:
        device.waiting = Waiting(device.name, detail, time.monotonic())
        self._run.broadcast(device.waiting)

    def stop(self) -> None:
        """Replace no engine any more, and end those that still load or prove: front ends have left."""
        self._lives.stop()
        for engine in self.living():
            if not engine.complete.done():
                engine.child.kill()


def backoff(failures: int) -> float:
    """Seconds to wait before the next start: none after a child that had worked."""
    return min(MOST_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** (failures - 1)) if failures else 0.0
