"""Serve at once, compile behind: what the engines serve without a verdict is compiled by a child of low priority.

Where a package wins, the models' next generation of engines answers with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterable

import msgspec
import structlog

from service.host.run_folder import make_again
from service.loader.repository import ModelFolder
from service.loader.verdict import Verdict
from service.supervisor.generations import Generations
from service.supervisor.launch import run_compiler
from service.supervisor.processes import Child
from service.supervisor.run import Run
from service.wire.messages import AnyFrame, Frame, ModelState, Optimized
from service.wire.specs import CompilerSpec

log = structlog.get_logger()


class CompileBehind:
    """Runs one compiler at a time, and tells front ends, metrics and the log what came of it.

    Args:
        turn: has new engines take over, of the models that are served now.
    """

    def __init__(self, run: Run, generations: Generations, turn: Callable[[], Awaitable[None]]) -> None:
        self._run = run
        self._settings = run.settings
        self._generations = generations
        self._turn = turn
        self._changed = asyncio.Event()
        self._tried: dict[tuple[str, str], Optimized] = {}
        self._shown: dict[str, str] = {}
        self.child: Child | None = None

    def engines_changed(self) -> None:
        """A device has another engine: it may serve what nobody has compiled."""
        self._show(self._served())
        self._changed.set()

    def news(self) -> Iterable[Frame]:
        """Return what a front end that starts has to know."""
        return [self._until_it_answers(found) for found in self._tried.values()]

    async def run(self) -> None:
        """Compile what has no verdict, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while pending := self._pending():
                await self._compile(pending)

    def _served(self) -> list[ModelState]:
        return [model for device in self._generations.devices.values() for model in device.models]

    def _pending(self) -> dict[str, ModelState]:
        """Return by name the models that are served without a verdict and have not been tried by this server.

        Nothing while an engine brings models up: requests that wait for them need its processors more.
        """
        current = [device.current for device in self._generations.devices.values()]
        if any(engine and not engine.complete.done() for engine in current):
            return {}
        return {
            model.name: model
            for model in self._served()
            if model.state == "ready"
            and model.verdict
            and model.verdict.state == "pending"
            and (model.name, model.version) not in self._tried
        }

    async def _compile(self, pending: dict[str, ModelState]) -> None:
        engine = next(d.current for d in self._generations.devices.values() if d.current)
        folders = [engine.catalogue.folders[name] for name in pending if name in engine.catalogue.folders]
        cause = await self._run_child(engine.device, engine.spec.threads, folders, pending)
        unjudged = [model for model in pending.values() if (model.name, model.version) not in self._tried]
        for model in unjudged if cause == "exit 0" else unjudged[:1]:  # models behind one that crashed are tried next
            ended = f"the process that compiled it ended: {cause}"
            words = "it could not be compiled; the log says why" if cause == "exit 0" else ended
            self._judged(Optimized(model.name, model.version, Verdict("failed", words)))
        found = [self._tried[key] for model in pending.values() if (key := (model.name, model.version)) in self._tried]
        if any(one.verdict.state == "compiled" for one in found) and self._settings.replace == "beside":
            await self._turn()

    async def _run_child(
        self, device: str, threads: int, folders: list[ModelFolder], pending: dict[str, ModelState]
    ) -> str:
        """Compile in a child; returns the cause of its end."""
        tunings = {model.version: model.tuning for model in pending.values() if model.tuning}
        temporary = self._run.folder / "compiler"
        spec = CompilerSpec(device, temporary, threads, tunings, folders, self._settings)
        self.child = Child(f"compiler {device}", self._received)
        try:
            make_again(self._run.folder, temporary.name)
            await self.child.start(self._run.fork_server, run_compiler, spec)
            return await self.child.ended()
        except (OSError, EOFError) as error:  # a full disk, a fork server that just died: no reason to stop serving
            return f"{type(error).__name__}: {error}"
        finally:
            await asyncio.to_thread(shutil.rmtree, temporary, ignore_errors=True)

    def _received(self, frame: AnyFrame) -> None:
        if isinstance(frame, Optimized):
            self._judged(frame)

    def _judged(self, found: Optimized) -> None:
        self._tried[found.model, found.version] = found
        verdict = found.verdict
        tell = log.info if verdict.state in ("compiled", "slower") else log.warning
        tell("optimised", model=found.model, verdict=verdict.state, detail=verdict.detail)
        self._run.broadcast(self._until_it_answers(found))
        self._show(self._served())

    def _until_it_answers(self, found: Optimized) -> Optimized:
        """Return what front ends tell of a package that has won, while the engines that they know are eager."""
        if found.verdict.state != "compiled":
            return found
        when = "the next start or reload" if self._settings.replace == "stop-first" else "the next generation"
        detail = f"{found.verdict.detail}; {when} answers with it"
        verdict = msgspec.structs.replace(found.verdict, state="pending", detail=detail)
        return Optimized(found.model, found.version, verdict)

    def _show(self, served: Iterable[ModelState]) -> None:
        """`model_optimization` is 1 for the state that a model is in."""
        for model in served:
            state = model.verdict.state if model.verdict else "pending"
            if state == "pending" and (found := self._tried.get((model.name, model.version))):
                state = self._until_it_answers(found).verdict.state
            before = self._shown.get(model.name)
            if before and before != state:
                self._run.metrics.model_optimization.labels(model.name, before).set(0)
            self._shown[model.name] = state
            self._run.metrics.model_optimization.labels(model.name, state).set(1)

    def kill(self) -> None:
        """End the compiler, and the C++ compilers that it started: they are a group."""
        if self.child and self.child.pid:
            with contextlib.suppress(ProcessLookupError):  # it has ended, or is no group yet
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.kill()
