"""The life of each engine: started, watched to its end, seen off."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
from collections.abc import Callable

import structlog

from service.host.cores import usable_cores
from service.host.metric_memory import forget_gauges
from service.host.run_folder import make_again
from service.loader.repository import Catalogue
from service.loader.tuning import Tuning
from service.supervisor.engines import Device, EngineChild
from service.supervisor.launch import run_engine
from service.supervisor.processes import Child, wait_for_end
from service.supervisor.run import Run
from service.wire.aboard import LastSeen, make_aboard_file, read_aboard
from service.wire.messages import AnyFrame, Drain, EngineDied, Ready
from service.wire.specs import EngineSpec

log = structlog.get_logger()

#: Seconds that an engine has to leave once nobody needs it.
ENGINE_DRAIN_SECONDS = 5.0


class Lives:
    """Starts engines, and knows of each until it has ended.

    Args:
        told: called when an engine has said something of its models.
        ended: called when one has ended, before front ends hear of it, with what its aboard file says.
    """

    def __init__(
        self,
        run: Run,
        told: Callable[[Device, EngineChild], None],
        ended: Callable[[Device, EngineChild, LastSeen], None],
    ) -> None:
        self._run = run
        self._told = told
        self._ended = ended
        self._numbers = itertools.count(1)
        self._stopping = False

    async def start(
        self, device: Device, catalogue: Catalogue, devices: int, tunings: dict[str, Tuning]
    ) -> EngineChild:
        """Start an engine beside those that the device has, and watch it to its end.

        Args:
            devices: the number of those that share this machine's processors.
            tunings: by model version, what an earlier engine measured to be fastest.

        Raises:
            OSError, EOFError: it could not be started.
        """
        run = self._run
        number, slot = next(self._numbers), device.free_slot()
        role = f"engine-{device.name.replace(':', '')}-{slot}"
        spec = EngineSpec(
            device=device.name,
            number=number,
            role=role,
            socket=run.folder / f"engine-{number}.sock",
            aboard=make_aboard_file(),
            temporary=run.folder / role,
            metrics=run.memory,
            threads=run.settings.threads or max(1, usable_cores() // devices),
            tunings=dict(tunings),
            models=catalogue,
            settings=run.settings,
        )
        child = Child(f"engine {device.name}", lambda frame: self._received(device, engine, frame))
        loop = asyncio.get_running_loop()
        listens, complete = loop.create_future(), loop.create_future()
        engine = EngineChild(device.name, number, slot, child, spec, catalogue, listens, complete)
        device.living.append(engine)
        try:
            make_again(run.folder, role)
            await child.start(run.fork_server, run_engine, spec)
        except (OSError, EOFError):
            device.living.remove(engine)
            spec.aboard.close()
            raise
        run.spawn(self._watch(device, engine))
        return engine

    def _received(self, device: Device, engine: EngineChild, frame: AnyFrame) -> None:
        if isinstance(frame, Ready):
            engine.told(frame)
            self._told(device, engine)

    async def _watch(self, device: Device, engine: EngineChild) -> None:
        engine.cause = await engine.child.ended()
        seen = read_aboard(engine.spec.aboard)
        await asyncio.to_thread(self._wipe, engine)
        device.living.remove(engine)
        engine.spec.aboard.close()
        engine.has_ended()
        if not (engine.retired or self._stopping):
            words = {"device": engine.device, "generation": engine.number, "cause": engine.cause}
            log.error("engine died", **words, aboard=len(seen.ids))
        if not self._stopping:
            self._ended(device, engine, seen)
        self._run.broadcast(EngineDied(engine.device, engine.number, engine.cause, seen.ids))

    def _wipe(self, engine: EngineChild) -> None:
        """Leave nothing of a dead engine but its counters, which the next one in its slot goes on with."""
        with contextlib.suppress(OSError):
            engine.spec.socket.unlink()
        forget_gauges(self._run.memory, engine.spec.role)
        shutil.rmtree(engine.spec.temporary, ignore_errors=True)

    def retire(self, engine: EngineChild) -> None:
        """Have an engine finish what it has and end; one that does not is ended."""
        engine.retired = True
        limit = self._run.settings.max_timeout_ms / 1000
        engine.child.send(Drain(0.0, limit))
        self._run.spawn(_see_off(engine, limit + ENGINE_DRAIN_SECONDS))

    def stop(self) -> None:
        """Make no more of an engine's end: the server ends too."""
        self._stopping = True


async def _see_off(engine: EngineChild, limit: float) -> None:
    try:
        async with asyncio.timeout(limit):
            await wait_for_end(engine.child.pid)
    except TimeoutError:
        engine.child.kill()
