"""Reload: what the model folders hold now, proven by new engines before front ends turn to them.

What cannot be served changes nothing: the old generation serves on, and the error is told until a reload succeeds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import structlog
from watchfiles import Change, awatch

from service.engine.wire import Frame, ModelState, Reloading
from service.errors import ConfigurationError, ReloadError
from service.generations import Device, Engine, Generations
from service.loader.repository import Catalogue, read_catalogue
from service.metrics import Metrics
from service.settings import Settings

log = structlog.get_logger()

#: Files have been copied when nothing has changed for so long; while copying goes on, it is waited for at most.
SETTLED_SECONDS, MOST_COPYING_SECONDS = 1.0, 600.0
#: A watch that broke off is set up again after this.
WATCH_AGAIN_SECONDS = 5.0


class Reloader:
    """Reloads one after another; a request that comes while one runs means that one more follows.

    Args:
        wanted: set to ask for one, by SIGHUP before there is a reloader too.
    """

    def __init__(
        self,
        settings: Settings,
        generations: Generations,
        metrics: Metrics,
        broadcast: Callable[[Frame], None],
        wanted: asyncio.Event,
    ) -> None:
        self.state = Reloading(False, 0, "")
        self._settings = settings
        self._generations = generations
        self._metrics = metrics
        self._broadcast = broadcast
        self._wanted = wanted
        self._changing = asyncio.Lock()
        for result in ("succeeded", "failed"):
            metrics.reloads.labels(result)

    def request(self) -> None:
        self._wanted.set()

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self._tell(Reloading(True, self.state.ended, self.state.error))
            async with self._changing:
                error = await self._reload()
            self._metrics.reloads.labels("failed" if error else "succeeded").inc()
            self._tell(Reloading(False, self.state.ended + 1, error))

    async def turn_again(self) -> None:
        """Have new engines serve what is served already: what is kept of the models has changed."""
        async with self._changing:
            try:
                await self._beside(self._generations.catalogue)
            except (ReloadError, OSError, EOFError) as error:
                log.error("turn failed", error=str(error))

    async def _reload(self) -> str:
        """Why it failed; empty when it did not."""
        try:
            catalogue = await asyncio.to_thread(read_catalogue, self._settings.models, self._settings.default_model)
            change = self._stop_first if self._settings.replace == "stop-first" else self._beside
            await change(catalogue)
        except (ConfigurationError, ReloadError) as error:
            log.error("reload failed", error=str(error))
            return str(error)
        log.info("reloaded", models=sorted(catalogue.folders), default_model=catalogue.default_model)
        return ""

    def _tell(self, state: Reloading) -> None:
        self.state = state
        self._broadcast(state)

    async def _beside(self, catalogue: Catalogue) -> None:
        """New engines load beside the old ones; when all are ready, front ends turn to all.

        Raises:
            ReloadError: one of them does not serve what it must; the old ones serve on.
        """
        generations = self._generations
        devices = list(generations.devices.values())
        for device in devices:
            await generations.old_ones_gone(device)
        engines = [await generations.start(device, catalogue) for device in devices]
        try:
            await asyncio.wait([engine.ready for engine in engines], timeout=self._settings.start_limit_seconds)
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
            before = served(device.current)
            await self._generations.let_go(device)
            await device.occupied.wait()
            problems += faults(before, served(device.current))
        if problems:
            raise ReloadError("\n".join(problems))


def _check(device: Device, engine: Engine, limit: float) -> None:
    """Whether a new engine can take the place of what serves the device.

    Raises:
        ReloadError: it cannot, and why.
    """
    if not engine.ready.done():
        raise ReloadError(f"the new engine of {device.name} was not ready after {limit:g} s")
    if engine not in device.living:
        raise ReloadError(f"the new engine of {device.name} died while it started: {engine.cause}")
    if device.current and (problems := faults(served(device.current), served(engine))):
        raise ReloadError("\n".join(problems))


def served(engine: Engine | None) -> list[ModelState]:
    ready = engine and engine.serving
    return ready.models if ready else []


def faults(before: Sequence[ModelState], after: Sequence[ModelState]) -> list[str]:
    """What makes a generation worse than the one before it: each model that must be ready and is not.

    That is a required one and one that was ready. A model that had failed before, and still does, is no reason to
    hold back what else has changed.
    """
    was_ready = {model.name for model in before if model.state == "ready"}
    had_failed = {model.name for model in before} - was_ready
    return [
        f"{model.name}: {model.detail or model.state}"
        for model in after
        if model.state != "ready" and (model.name in was_ready or (model.required and model.name not in had_failed))
    ]


def concerns_models(root: Path, change: Change, path: str) -> bool:
    """Whether a change under `root` is one of a model: not the bytecode that Python writes, nor an editor's files."""
    parts = Path(path).relative_to(root).parts if Path(path).is_relative_to(root) else (path,)
    name = parts[-1] if parts else ""
    return "__pycache__" not in parts and ".git" not in parts and not name.endswith((".pyc", ".swp", ".tmp", "~"))


async def watch(models: Path, changed: Callable[[], None]) -> None:
    """Call `changed` when files of the models have changed and then been quiet for a moment; until cancelled."""
    root = Path(os.path.realpath(models))
    while True:
        try:
            async for changes in awatch(
                root,
                watch_filter=lambda change, path: concerns_models(root, change, path),
                step=int(SETTLED_SECONDS * 1000),
                debounce=int(MOST_COPYING_SECONDS * 1000),
                raise_interrupt=False,
            ):
                log.info("files changed", files=_names(root, changes))
                changed()
        except (OSError, RuntimeError) as error:  # the folder is gone for a moment, or the kernel's watches are used up
            log.error("watch broke off", folder=str(root), error=str(error))
        await asyncio.sleep(WATCH_AGAIN_SECONDS)
        changed()  # what happened meanwhile nobody saw


def _names(root: Path, changes: Iterable[tuple[Change, str]]) -> list[str]:
    return sorted({os.path.relpath(path, root) for _, path in changes})[:10]
