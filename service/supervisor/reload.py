"""Reload: what the model folders hold now, proven by new engines before front ends turn to them.

What cannot be served changes nothing: the old generation serves on, and the error is told until a reload succeeds.
"""

from __future__ import annotations

import asyncio

import structlog

from service.errors import ConfigurationError, ReloadError
from service.loader.repository import Catalogue, read_catalogue
from service.supervisor.engines import Device, EngineChild
from service.supervisor.faults import faults
from service.supervisor.generations import Generations
from service.supervisor.run import Run
from service.wire.messages import Reloading

log = structlog.get_logger()


class Reloader:
    """Reloads one after another; a request that comes while one runs means that one more follows.

    Args:
        wanted: set to ask for one, by SIGHUP before there is a reloader too.
    """

    def __init__(self, run: Run, generations: Generations, wanted: asyncio.Event) -> None:
        self.state = Reloading(False, 0, "")
        self._run = run
        self._settings = run.settings
        self._generations = generations
        self._wanted = wanted
        self._changing = asyncio.Lock()
        for result in ("succeeded", "failed"):
            run.metrics.reloads.labels(result)

    def request(self) -> None:
        self._wanted.set()

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self._tell(Reloading(True, self.state.ended, self.state.error))
            async with self._changing:
                error = await self._reload()
            self._run.metrics.reloads.labels("failed" if error else "succeeded").inc()
            self._tell(Reloading(False, self.state.ended + 1, error))

    async def turn_again(self) -> None:
        """Have new engines serve what is served already: what is kept of the models has changed."""
        async with self._changing:
            try:
                await self._beside(self._generations.catalogue)
            except ReloadError as error:
                log.error("turn failed", error=str(error))

    async def _reload(self) -> str:
        """Reload once; returns why that failed, or nothing."""
        try:
            models, default = self._settings.models, self._settings.default_model
            standing = self._generations.catalogue.default_model
            catalogue = await asyncio.to_thread(read_catalogue, models, default, standing)
            change = self._stop_first if self._settings.replace == "stop-first" else self._beside
            await change(catalogue)
        except (ConfigurationError, ReloadError) as error:
            log.error("reload failed", error=str(error))
            return str(error)
        log.info("reloaded", models=sorted(catalogue.folders), default_model=catalogue.default_model)
        return ""

    def _tell(self, state: Reloading) -> None:
        self.state = state
        self._run.broadcast(state)

    async def _beside(self, catalogue: Catalogue) -> None:
        """New engines load beside the old ones; when none has a model left to prove, front ends turn to all.

        Raises:
            ReloadError: one of them cannot be started, or does not serve what it must; the old ones serve on.
        """
        generations = self._generations
        devices = list(generations.devices.values())
        for device in devices:
            await device.old_ones_gone()
        engines: list[EngineChild] = []
        try:
            for device in devices:
                engines.append(await _start(generations, device, catalogue))
            await asyncio.wait([engine.complete for engine in engines], timeout=self._settings.start_limit_seconds)
            for device, engine in zip(devices, engines, strict=True):
                _check(device, engine, self._settings.start_limit_seconds)
        except (ReloadError, asyncio.CancelledError):
            for engine in engines:
                engine.dismiss()
            raise
        generations.catalogue = catalogue
        for device, engine in zip(devices, engines, strict=True):
            device.failures = 0
            generations.turn_to(device, engine)

    async def _stop_first(self, catalogue: Catalogue) -> None:
        """One device after another is freed and then started anew; requests wait meanwhile.

        Raises:
            ReloadError: the new engine serves less than the old one; it serves all the same, the old one is gone.
        """
        self._generations.catalogue = catalogue
        problems = []
        for device in self._generations.devices.values():
            before = device.models
            await self._generations.let_go(device)
            problems += faults(before, (await self._generations.settled(device)).models)
        if problems:
            raise ReloadError("\n".join(problems))


async def _start(generations: Generations, device: Device, catalogue: Catalogue) -> EngineChild:
    """Start an engine of a reload.

    Raises:
        ReloadError: it cannot be started, and why.
    """
    try:
        return await generations.start(device, catalogue)
    except (OSError, EOFError) as error:
        words = f"a new engine of {device.name} could not be started: {type(error).__name__}: {error}"
        raise ReloadError(words) from error


def _check(device: Device, engine: EngineChild, limit: float) -> None:
    """Refuse a new engine that cannot take the place of what serves the device.

    Raises:
        ReloadError: why it cannot.
    """
    if not engine.complete.done():
        raise ReloadError(f"the new engine of {device.name} was not ready after {limit:g} s")
    if engine not in device.living:
        raise ReloadError(f"the new engine of {device.name} died while it started: {engine.cause}")
    if device.current and (problems := faults(device.models, engine.models)):
        raise ReloadError("\n".join(problems))
