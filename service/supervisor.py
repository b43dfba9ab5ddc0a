"""The process tree: starts the front ends and the engines (`service.generations`), watches, replaces, drains them.

It holds no request and never touches CUDA. Everything it knows of a child comes over that child's control
socket or from the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from service.compile_behind import CompileBehind
from service.devices import resolve_devices
from service.engine.wire import AnyFrame, Drain, Frame, Listening, Reload
from service.errors import ConfigurationError
from service.generations import ENGINE_DRAIN_SECONDS, Device, Generations
from service.launch import run_front_end
from service.loader.repository import Catalogue, ModelFolder
from service.memory_limit import sample_limit
from service.metrics import Metrics
from service.process_memory import sample_memory
from service.processes import Child, ForkServer, wait_for_end
from service.reload import Reloader, watch
from service.settings import Settings
from service.specs import FrontEndSpec
from service.start_limit import StartLimit
from service.terminal import Terminal

log = structlog.get_logger()

#: Pauses between two readings of memory, of which every so-manyth counts shared pages too.
MEMORY_SECONDS, TURNS_TO_PSS = 10.0, 6
#: A front end that dies sooner is started again after as long.
BACKOFF_SECONDS = 0.5


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
        self._catalogue = Catalogue(folders, default_model)
        self._starts = itertools.count(1)
        self._front_ends: dict[int, FrontEnd] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._served = False
        self._listening = False
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
        terminal, self._hung_up = Terminal(), asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, lambda: self._signalled() if terminal.is_gone() else self._hung_up.set())
        self._fork_server = ForkServer()
        self._run_folder = Path(tempfile.mkdtemp(prefix="gradless-"))
        try:
            with contextlib.ExitStack() as bound:
                self._listeners = [bound.enter_context(listener) for listener in bind(self._settings)]
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
        self._start_limit = StartLimit(self._settings.start_limit_seconds, self._give_up)
        self._start_limit.tell(serving=False)
        self._generations = Generations(
            self._settings,
            self._catalogue,
            self._run_folder,
            self._fork_server,
            self._metrics,
            self._spawn,
            self._broadcast,
            self._device_changed,
        )
        self._reloader = Reloader(self._settings, self._generations, self._metrics, self._broadcast, self._hung_up)
        self._compiling = CompileBehind(
            self._settings,
            self._generations,
            self._run_folder,
            self._fork_server,
            self._metrics,
            self._broadcast,
            self._reloader.turn_again,
        )
        self._generations.begin(names)
        changes = [self._spawn(self._reloader.run()), self._spawn(self._compiling.run())]
        if self._settings.watch:
            self._spawn(watch(self._settings.models, self._reloader.request))
        for number in range(self._settings.front_ends):
            self._spawn(self._start_front_end(number))
        self._spawn(self._watch_memory())
        self._spawn(watchdog.watch(self._watched, self._settings.watchdog_seconds))
        await self._stop.wait()
        for change in changes:
            change.cancel()
        self._compiling.kill()
        if self._failure:
            self._kill_all()
            raise self._failure
        if not self._served:  # nothing was ever accepted
            self._kill_all()
            return 0 if self._signals else 1
        return await self._drain()

    def _signalled(self) -> None:
        """The first signal drains, a second one ends at once."""
        self._signals += 1
        if self._signals == 1:
            log.info("draining")
        else:
            self._kill_all()
        self._stop.set()

    def _give_up(self, seconds: float) -> None:
        log.error("giving up", why=f"for {seconds:g} s no engine has served a model")
        self._stop.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in the background; a bug in the supervisor ends the server rather than half of it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._failure = error
            self._stop.set()

    def _device_changed(self, device: Device) -> None:
        """It has another engine, or none."""
        self._start_limit.tell(self._generations.is_serving())
        self._compiling.engines_changed()
        ready = device.current and device.current.serving
        if not ready:
            return
        self._served = True
        self._sample_memory(pss=True)
        self._announce_once()

    def _announce_once(self) -> None:
        """Tell the operator that the server serves: every device has an engine, and somebody accepts connections."""
        devices = self._generations.devices.values()
        engines = [ready for device in devices if device.current and (ready := device.current.serving)]
        if self._announced or not self._listening or len(engines) < len(devices):
            return
        self._announced = True
        summary.show(self._settings, self._addresses(), engines[-1].models, [device.name for device in devices])

    def _addresses(self) -> list[tuple[Any, ...]]:
        return [listener.getsockname() for listener in self._listeners]

    # Front ends

    async def _start_front_end(self, number: int, delay: float = 0.0) -> None:
        await asyncio.sleep(delay)
        catalogue = self._generations.catalogue
        required = {name: folder.card.required for name, folder in catalogue.folders.items()}
        spec = FrontEndSpec(
            number, next(self._starts), catalogue.default_model, required, self._metrics_folder, self._settings
        )
        child = Child(f"front end {number}", self._front_end_frame)
        await child.start(self._fork_server, run_front_end, self._listeners, spec)
        front_end = self._front_ends[number] = FrontEnd(spec, child)
        for frame in [*self._generations.news(), *self._compiling.news(), self._reloader.state]:
            child.send(frame)
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

    def _front_end_frame(self, frame: AnyFrame) -> None:
        if isinstance(frame, Reload):
            self._reloader.request()
        elif isinstance(frame, Listening):
            self._listening = True
            self._announce_once()

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
        for turn in itertools.count():
            self._sample_memory(pss=turn % TURNS_TO_PSS == 0)
            await asyncio.sleep(MEMORY_SECONDS)

    def _sample_memory(self, pss: bool) -> None:
        roles = {"engine": [engine.child.pid for engine in self._generations.living()]}
        roles["front-end"] = [front_end.child.pid for front_end in self._front_ends.values()]
        roles["fork-server"] = [self._fork_server.pid]
        sample_memory(self._metrics.process_memory, roles, pss)
        sample_limit(self._metrics.memory_limit, self._metrics.memory_usage)

    def _watched(self) -> list[tuple[Child, Path]]:
        """What the watchdog looks after: engines that serve. One that loads may well be silent for long."""
        return [(engine.child, engine.spec.aboard) for engine in self._generations.living() if engine.serving]

    async def _drain(self) -> int:
        """Front ends answer on, finish and leave; then the engines; 0 when all left by themselves."""
        for listener in self._listeners:
            listener.close()  # the front ends' copies are the last: theirs close when they have drained
        drain = Drain(self._settings.drain_delay_seconds, self._settings.drain_limit_seconds)
        self._broadcast(drain)
        in_time = await self._all_gone(
            [front_end.child for front_end in self._front_ends.values()], drain.delay_seconds + drain.limit_seconds + 2
        )
        self._generations.stop()
        engines = [engine.child for engine in self._generations.living()]
        for engine in engines:
            engine.send(Drain(0.0, ENGINE_DRAIN_SECONDS))
        in_time &= await self._all_gone(engines, ENGINE_DRAIN_SECONDS + 1)
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
        for engine in self._generations.living():
            engine.child.kill()
        for front_end in self._front_ends.values():
            front_end.child.kill()


def bind(settings: Settings) -> list[socket.socket]:
    """The socket for clients and, where it has a port of its own, the one for operations.

    Raises:
        ConfigurationError: an address cannot be had.
    """
    listeners = [_bind(settings.host, settings.port, "port")]
    if settings.operations_port is not None:
        try:
            listeners.append(_bind(settings.host, settings.operations_port, "operations_port"))
        except ConfigurationError:
            listeners[0].close()
            raise
    return listeners


def _bind(host: str, port: int, key: str) -> socket.socket:
    """A socket bound and not yet listening: until a front end is there, connections are refused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets that say IPPROTO_TCP; without it a request costs 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        words, fix = f"cannot listen on {host}:{port}: {error.strerror or error}", key.replace("_", "-")
        raise ConfigurationError.at("settings", f"host, {key}", words, f"choose a free --{fix}") from error
    return listener
