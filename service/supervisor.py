"""The process tree: starts the front ends and the engines, watches them, replaces them, drains them.

It holds no request and never touches CUDA. Everything it knows of a child comes over that child's control
socket or from the kernel.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from service import summary, watchdog
from service.cores import usable_cores
from service.devices import resolve_devices
from service.engine.aboard import read_aboard
from service.engine.wire import AnyFrame, Drain, Failed, Frame, Generation, Ready
from service.errors import ConfigurationError
from service.launch import run_engine, run_front_end
from service.loader.report import Tuning
from service.loader.repository import ModelFolder
from service.metrics import Metrics
from service.process_memory import sample_memory
from service.processes import Child, ForkServer, wait_for_end
from service.settings import Settings
from service.specs import EngineSpec, FrontEndSpec

log = structlog.get_logger()

MEMORY_SECONDS = 10.0
#: An engine has so long to leave once every front end has.
ENGINE_DRAIN_SECONDS = 5.0
#: A child that dies without having done anything is started again after this, doubled each time up to the most.
BACKOFF_SECONDS, MOST_BACKOFF_SECONDS = 0.5, 30.0


@dataclass(eq=False)
class Engine:
    """One generation of one device's engine."""

    device: str
    number: int
    slot: str
    child: Child
    spec: EngineSpec
    ready: Ready | None = None


@dataclass
class Device:
    """Who serves a device: the current engine, and during a change the next one."""

    name: str
    current: Engine | None = None
    starting: Engine | None = None
    failures: int = 0


@dataclass
class FrontEnd:
    spec: FrontEndSpec
    child: Child
    started: float = field(default_factory=time.monotonic)


class Supervisor:
    """Runs one server from its start to its end.

    Args:
        settings: every knob.
        folders: the models to serve, read and found to be in order.
        default_model: the name that /predict goes to.
    """

    def __init__(self, settings: Settings, folders: dict[str, ModelFolder], default_model: str) -> None:
        self._settings = settings
        self._folders = folders
        self._default_model = default_model
        self._numbers = itertools.count(1)
        self._starts = itertools.count(1)
        self._devices: dict[str, Device] = {}
        self._front_ends: dict[int, FrontEnd] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tunings: dict[str, Tuning] = {}
        self._failure: BaseException | None = None
        self._served = False
        self._announced = False

    async def run(self) -> int:
        """Serve until a signal; returns the exit code.

        Raises:
            ConfigurationError: the address is taken, or a device is not there.
        """
        self._stop = asyncio.Event()
        self._signals = 0
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        self._fork_server = ForkServer()
        self._run_folder = Path(tempfile.mkdtemp(prefix="gradless-"))
        try:
            with bind(self._settings) as self._listener:
                return await self._serve()
        finally:
            self._fork_server.stop()
            shutil.rmtree(self._run_folder, ignore_errors=True)

    async def _serve(self) -> int:
        self._metrics_folder = self._run_folder / "metrics"
        self._metrics_folder.mkdir()
        self._metrics = Metrics("supervisor", self._metrics_folder)
        await self._fork_server.ensure_running()
        self._spawn(self._watch_fork_server())
        names = await resolve_devices(self._settings.device, self._fork_server)
        self._devices = {name: Device(name) for name in names}
        for device in self._devices.values():
            self._spawn(self._start_engine(device))
        for number in range(self._settings.front_ends):
            self._spawn(self._start_front_end(number))
        self._spawn(self._watch_memory())
        self._spawn(watchdog.watch(self._watched, self._settings.watchdog_seconds))
        await self._stop.wait()
        if self._failure:
            self._kill_all()
            raise self._failure
        if not self._served:  # nothing was ever accepted
            self._kill_all()
            return 0
        return await self._drain()

    def _signalled(self) -> None:
        """The first signal drains, a second one ends at once."""
        self._signals += 1
        if self._signals == 1:
            log.info("draining")
        else:
            self._kill_all()
        self._stop.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run in the background; a bug in the supervisor ends the server rather than half of it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._failure = error
            self._stop.set()

    # Engines

    async def _start_engine(self, device: Device, delay: float = 0.0) -> None:
        """Start the next generation beside the current one, if there is one, and watch it to its end."""
        await asyncio.sleep(delay)
        number = next(self._numbers)
        slot = "b" if device.current and device.current.slot == "a" else "a"
        spec = EngineSpec(
            device=device.name,
            number=number,
            role=f"engine-{device.name.replace(':', '')}-{slot}",
            socket=self._run_folder / f"engine-{number}.sock",
            aboard=self._run_folder / f"engine-{number}.aboard",
            metrics=self._metrics_folder,
            threads=self._settings.threads or max(1, usable_cores() // len(self._devices)),
            tunings=dict(self._tunings),
            folders=list(self._folders.values()),
            settings=self._settings,
        )
        child = Child(f"engine {device.name}", lambda frame: self._engine_frame(device, engine, frame))
        engine = device.starting = Engine(device.name, number, slot, child, spec)
        await child.start(self._fork_server, run_engine, spec)
        self._spawn(self._watch_engine(device, engine))

    def _engine_frame(self, device: Device, engine: Engine, frame: AnyFrame) -> None:
        """A ready engine takes over: front ends turn to it, and the one before it finishes and ends."""
        if not isinstance(frame, Ready):
            return
        engine.ready = frame
        self._served = True
        before, device.current, device.starting = device.current, engine, None
        self._tunings |= {model.version: model.tuning for model in frame.models if model.tuning}
        self._metrics.engine_up.labels(device.name).set(1)
        self._broadcast(self._generation(engine, frame))
        if before:
            before.child.send(Drain(0.0, self._settings.max_timeout_ms / 1000))
        self._sample_memory()
        if not self._announced and all(d.current for d in self._devices.values()):
            self._announced = True
            summary.show(self._settings, self._listener.getsockname(), frame.models, list(self._devices))

    async def _watch_engine(self, device: Device, engine: Engine) -> None:
        cause = await engine.child.ended()
        seen = read_aboard(engine.spec.aboard)
        engine.spec.aboard.unlink(missing_ok=True)
        engine.spec.socket.unlink(missing_ok=True)
        if engine is device.current:
            device.current = None
        elif engine is device.starting:
            device.starting = None
        else:
            self._report_death(engine, cause, seen.ids)
            return  # an older generation: it has a successor already
        if cause == "exit 0":
            return
        self._metrics.engine_up.labels(device.name).set(float(device.current is not None))
        self._metrics.engine_restarts.labels(device.name, cause).inc()
        self._report_death(engine, cause, seen.ids)
        device.failures = 0 if seen.finished else device.failures + 1
        await self._start_engine(device, backoff(device.failures))

    def _report_death(self, engine: Engine, cause: str, aboard: list[int]) -> None:
        if cause != "exit 0":
            log.error("engine died", device=engine.device, generation=engine.number, cause=cause, aboard=len(aboard))
        self._broadcast(Failed(engine.device, engine.number, cause, aboard))

    # Front ends

    async def _start_front_end(self, number: int, delay: float = 0.0) -> None:
        await asyncio.sleep(delay)
        required = {name: folder.card.required for name, folder in self._folders.items()}
        spec = FrontEndSpec(
            number, next(self._starts), self._default_model, required, self._metrics_folder, self._settings
        )
        child = Child(f"front end {number}", lambda frame: None)
        await child.start(self._fork_server, run_front_end, self._listener, spec)
        front_end = self._front_ends[number] = FrontEnd(spec, child)
        for device in self._devices.values():
            if device.current and device.current.ready:
                child.send(self._generation(device.current, device.current.ready))
        self._spawn(self._watch_front_end(front_end))

    async def _watch_front_end(self, front_end: FrontEnd) -> None:
        cause = await front_end.child.ended()
        number = front_end.spec.number
        del self._front_ends[number]
        if self._stop.is_set():
            return
        log.error("front end died", number=number, cause=cause)
        lived = time.monotonic() - front_end.started
        await self._start_front_end(number, 0.0 if lived > BACKOFF_SECONDS else BACKOFF_SECONDS)

    def _generation(self, engine: Engine, ready: Ready) -> Generation:
        return Generation(engine.device, engine.number, str(engine.spec.socket), ready.models)

    def _broadcast(self, frame: Frame) -> None:
        for front_end in self._front_ends.values():
            front_end.child.send(frame)

    # The whole tree

    async def _watch_fork_server(self) -> None:
        """Its children outlive it; only new ones need another."""
        while True:
            await wait_for_end(self._fork_server.pid)
            log.error("fork server died")
            await self._fork_server.ensure_running()

    async def _watch_memory(self) -> None:
        while True:
            self._sample_memory()
            await asyncio.sleep(MEMORY_SECONDS)

    def _sample_memory(self) -> None:
        roles = {"engine": [engine.child.pid for engine in self._engines()]}
        roles["front-end"] = [front_end.child.pid for front_end in self._front_ends.values()]
        roles["fork-server"] = [self._fork_server.pid]
        sample_memory(self._metrics.process_memory, roles)

    def _engines(self) -> list[Engine]:
        both = [(device.current, device.starting) for device in self._devices.values()]
        return [engine for pair in both for engine in pair if engine]

    def _watched(self) -> list[tuple[Child, Path]]:
        """What the watchdog looks after: engines that serve. One that loads may well be silent for long."""
        return [(engine.child, engine.spec.aboard) for engine in self._engines() if engine.ready]

    async def _drain(self) -> int:
        """Front ends answer on, finish and leave; then the engines; 0 when all left by themselves."""
        self._listener.close()  # the front ends' copies are the last: theirs close when they have drained
        drain = Drain(self._settings.drain_delay_seconds, self._settings.drain_limit_seconds)
        self._broadcast(drain)
        in_time = await self._all_gone(
            [front_end.child for front_end in self._front_ends.values()], drain.delay_seconds + drain.limit_seconds + 2
        )
        for engine in self._engines():
            engine.child.send(Drain(0.0, ENGINE_DRAIN_SECONDS))
        in_time &= await self._all_gone([engine.child for engine in self._engines()], ENGINE_DRAIN_SECONDS + 1)
        self._kill_all()
        log.info("stopped", in_time=in_time)
        return 0 if in_time and self._signals == 1 else 1

    async def _all_gone(self, children: list[Child], limit: float) -> bool:
        """Whether they ended in time; who did not is killed."""
        try:
            async with asyncio.timeout(limit):
                await asyncio.gather(*(wait_for_end(child.pid) for child in children))
        except TimeoutError:
            self._kill_all()
            return False
        return True

    def _kill_all(self) -> None:
        for engine in self._engines():
            engine.child.kill()
        for front_end in self._front_ends.values():
            front_end.child.kill()


def backoff(failures: int) -> float:
    """Seconds to wait before the next start: none after a child that had worked."""
    return min(MOST_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** (failures - 1)) if failures else 0.0


def bind(settings: Settings) -> socket.socket:
    """The listening socket, bound and not yet listening: until a front end is there, connections are refused.

    Raises:
        ConfigurationError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets that say IPPROTO_TCP; without it a request costs 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        where = f"{settings.host}:{settings.port}"
        words = f"cannot listen on {where}: {error.strerror or error}"
        raise ConfigurationError.at("settings", "host, port", words, "choose a free --port") from error
    return listener
