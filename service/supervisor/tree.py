"""The process tree: starts the front ends and the engines (`generations`), watches, replaces, drains them.

It holds no request and never touches CUDA. Everything it knows of a child comes over that child's control
socket or from the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import signal
from collections.abc import Coroutine
from typing import Any

import structlog

from service.host.log_writer import LAST_LINES_SECONDS
from service.host.memory_file import MemoryFile
from service.host.memory_limit import sample_limit
from service.host.metric_memory import make_metric_memory
from service.host.process_memory import sample_memory
from service.host.run_folder import make_run_folder
from service.loader.repository import Catalogue
from service.metrics import Metrics
from service.settings import Settings
from service.supervisor import summary, watchdog
from service.supervisor.compile_behind import CompileBehind
from service.supervisor.devices import resolve_devices
from service.supervisor.engines import Device
from service.supervisor.front_ends import FrontEnds
from service.supervisor.generations import MOST_BACKOFF_SECONDS, Generations
from service.supervisor.listeners import bind
from service.supervisor.lives import ENGINE_DRAIN_SECONDS
from service.supervisor.processes import Child, ForkServer, wait_for_end
from service.supervisor.reload import Reloader
from service.supervisor.run import Run
from service.supervisor.start_limit import StartLimit
from service.supervisor.terminal import Terminal
from service.supervisor.watch import Snapshot, watch
from service.wire.messages import AnyFrame, Drain, Frame, Listening, Reload, any_up

log = structlog.get_logger()

#: Seconds between two readings of memory, and the number of readings to one that counts shared pages too.
MEMORY_SECONDS, TURNS_TO_PSS = 10.0, 6


class Supervisor:
    """Runs one server from its start to its end.

    Args:
        settings: every knob.
        catalogue: the models to serve, read and found to be in order.
        files: what the models folder held before it was read; None where nothing is watched.
    """

    def __init__(self, settings: Settings, catalogue: Catalogue, files: Snapshot | None) -> None:
        self._settings = settings
        self._files = files
        self._catalogue = catalogue
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._served = False
        self._listening = False
        self._announced = False
        self._start_up = summary.StartUp()

    async def run(self) -> int:
        """Serve until a signal; returns the exit code.

        Raises:
            ConfigurationError: the address is taken, a device is not there, or TMPDIR cannot be used.
        """
        self._stop = asyncio.Event()
        self._signals = 0
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        terminal, self._hung_up = Terminal(), asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, lambda: self._signalled() if terminal.is_gone() else self._hung_up.set())
        self._run_folder = make_run_folder()
        self._fork_server = ForkServer(self._run_folder)
        try:
            with contextlib.ExitStack() as bound:
                self._listeners = [bound.enter_context(listener) for listener in bind(self._settings)]
                return await self._serve()
        finally:
            self._fork_server.stop()
            shutil.rmtree(self._run_folder, ignore_errors=True)

    async def _serve(self) -> int:
        memory = make_metric_memory()
        self._metrics = Metrics("supervisor", memory)
        await self._fork_server.ensure_running()
        self._spawn(self._watch_fork_server())
        names = await resolve_devices(self._settings.device, self._fork_server)
        self._start_limit = StartLimit(self._settings.start_limit_seconds, self._give_up)
        self._start_limit.tell(serving=False)
        run = Run(
            self._settings,
            self._run_folder,
            self._fork_server,
            memory,
            self._metrics,
            self._spawn,
            self._broadcast,
        )
        self._generations = Generations(run, self._catalogue, self._device_changed)
        self._reloader = Reloader(run, self._generations, self._hung_up)
        self._compiling = CompileBehind(run, self._generations, self._reloader.turn_again)
        self._front_ends = FrontEnds(
            run, self._listeners, self._stop, lambda: self._generations.catalogue, self._news, self._front_end_frame
        )
        self._generations.begin(names)
        changes = [self._spawn(self._reloader.run()), self._spawn(self._compiling.run())]
        if self._files is not None:
            self._spawn(watch(self._settings.models, self._files, self._reloader.request))
        self._front_ends.begin(self._settings.front_ends)
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
        """Take in that a device has another engine, or none, or that its engine's models have changed."""
        self._start_limit.tell(self._generations.is_serving())
        self._compiling.engines_changed()
        ready = device.current and device.current.ready
        if ready and not self._announced:
            self._start_up.show(ready.models)
        if not ready or not any_up(ready.models):
            return
        self._served = True
        self._sample_memory(pss=True)
        self._announce_once()

    def _announce_once(self) -> None:
        """Tell the operator that the server serves: every engine is complete, and somebody accepts connections."""
        devices = self._generations.devices.values()
        current = [device.current.ready for device in devices if device.current]
        engines = [ready for ready in current if ready and ready.complete]
        if self._announced or not self._listening or len(engines) < len(devices):
            return
        self._announced = True
        self._start_up.clear()
        summary.show(self._settings, self._addresses(), engines[-1].models, [device.name for device in devices])

    def _addresses(self) -> list[tuple[Any, ...]]:
        return [listener.getsockname() for listener in self._listeners]

    def _front_end_frame(self, frame: AnyFrame) -> None:
        if isinstance(frame, Reload):
            self._reloader.request()
        elif isinstance(frame, Listening):
            self._listening = True
            self._announce_once()

    def _broadcast(self, frame: Frame) -> None:
        self._front_ends.broadcast(frame)

    def _news(self) -> list[Frame]:
        """Return what a front end that starts has to know."""
        return [*self._generations.news(), *self._compiling.news(), self._reloader.state]

    # The whole tree

    async def _watch_fork_server(self) -> None:
        """Start the fork server again when it dies. Its children outlive it; only new ones need another."""
        while True:
            if pid := self._fork_server.pid:
                await wait_for_end(pid)
                log.error("fork server died")
            try:
                await self._fork_server.ensure_running()
            except OSError as error:
                words = "the start of a child tries it again"
                log.error("fork server could not be started", error=str(error), then=words)
                await asyncio.sleep(MOST_BACKOFF_SECONDS)

    async def _watch_memory(self) -> None:
        for turn in itertools.count():
            self._sample_memory(pss=turn % TURNS_TO_PSS == 0)
            await asyncio.sleep(MEMORY_SECONDS)

    def _sample_memory(self, pss: bool) -> None:
        roles = {"engine": [engine.child.pid for engine in self._generations.living()]}
        roles["front-end"] = [child.pid for child in self._front_ends.children()]
        roles["fork-server"] = [self._fork_server.pid]
        sample_memory(self._metrics.process_memory, roles, pss)
        sample_limit(self._metrics.memory_limit, self._metrics.memory_usage)

    def _watched(self) -> list[tuple[Child, MemoryFile]]:
        """Return what the watchdog looks after: engines that listen. Before that, a pulse may stop."""
        return [(engine.child, engine.spec.aboard) for engine in self._generations.living() if engine.ready]

    async def _drain(self) -> int:
        """Front ends answer on, finish and leave; then the engines; 0 when all left by themselves."""
        for listener in self._listeners:
            listener.close()  # the front ends' copies are the last: theirs close when they have drained
        drain = Drain(self._settings.drain_delay_seconds, self._settings.drain_limit_seconds)
        self._broadcast(drain)
        in_time = await self._all_gone(
            self._front_ends.children(),
            drain.delay_seconds + drain.limit_seconds + 2 + LAST_LINES_SECONDS,
        )
        self._generations.stop()
        engines = [engine.child for engine in self._generations.living()]
        for engine in engines:
            engine.send(Drain(0.0, ENGINE_DRAIN_SECONDS))
        in_time &= await self._all_gone(engines, ENGINE_DRAIN_SECONDS + 1 + LAST_LINES_SECONDS)
        self._kill_all()
        log.info("stopped", in_time=in_time)
        return 0 if in_time and self._signals == 1 else 1

    async def _all_gone(self, children: list[Child], limit: float) -> bool:
        """Tell whether they ended in time; those that did not are killed."""
        try:
            async with asyncio.timeout(limit):
                await asyncio.gather(*(wait_for_end(child.pid) for child in children))
        except TimeoutError:
            self._kill_all()
            return False
        return True

    def _kill_all(self) -> None:
        for child in [*(engine.child for engine in self._generations.living()), *self._front_ends.children()]:
            child.kill()
