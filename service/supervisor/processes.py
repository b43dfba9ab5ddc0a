"""Child processes through multiprocessing's fork server: started in milliseconds, watched by pidfd."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import socket
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from service.host.run_folder import make_again
from service.wire.framing import FrameProtocol
from service.wire.messages import AnyFrame, Frame
from service.wire.specs import ExitCode

_context = multiprocessing.get_context("forkserver")


class ForkServer:
    """Starts children; is started again when it dies.

    All of it happens in one thread of its own: starting waits for the fork server, which takes seconds to
    import torch, and the supervisor's event loop must not.

    Args:
        folder: of this run of the server; the fork server listens there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        multiprocessing.process.current_process()._config["tempdir"] = str(folder)  # type: ignore[attr-defined]
        self._thread = ThreadPoolExecutor(1, "fork server")
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy's import would start threads, which no fork survives
        # `gradless` first: after it `service` is ours, whatever lies in the working directory.
        _context.set_forkserver_preload(["gradless", "service.supervisor.preload"])
        if not {"", str(Path.cwd())} & set(sys.path):
            os.environ["PYTHONSAFEPATH"] = "1"  # the fork server is a `python -c`, which would look there
        # A child imports the parent's main module again. Ours is the command line, which no child needs.
        self._main_module = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")

    async def ensure_running(self) -> None:
        """Start it if it does not run.

        Raises:
            OSError: it cannot be started.
        """
        await self._in_thread(self._ensure_running)

    async def start(self, target: Callable[..., None], *args: Any) -> multiprocessing.process.BaseProcess:
        """Start a child.

        Raises:
            OSError, EOFError: it cannot be started, or the fork server died over it.
        """
        process = _context.Process(target=target, args=args)
        await self._in_thread(lambda: self._start(process))
        return process

    def _start(self, process: multiprocessing.process.BaseProcess) -> None:
        """Start a child by this fork server or, when somebody has removed its socket, by another one."""
        self._ensure_running()
        try:
            process.start()
        except (FileNotFoundError, ConnectionRefusedError):  # nothing has been asked of it yet
            self._end()
            self._ensure_running()
            process.start()

    def _ensure_running(self) -> None:
        """Start it with the signals of a process group held back until it ignores them itself."""
        make_again(self._folder)
        held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, held)
        try:
            multiprocessing.forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, held)

    def _end(self) -> None:
        """End a fork server that nobody reaches; its children live on."""
        if pid := self.pid:
            self.stop()
            with contextlib.suppress(ChildProcessError):  # multiprocessing is to find it dead, and reap it
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    @property
    def pid(self) -> int:
        """0 before it runs. multiprocessing tells nobody when it dies; its pid is all there is to watch."""
        return multiprocessing.forkserver._forkserver._forkserver_pid or 0  # type: ignore[attr-defined]

    def stop(self) -> None:
        """End it; its children are none of its business any more."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def _in_thread(self, work: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def wait_for_end(pid: int) -> None:
    """Wait until the process has ended, whoever its parent is."""
    if not pid:
        return
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


class Child:
    """One child and the control socket to it.

    Attributes:
        name: as an operator reads it, such as `engine cpu`.
        pid: 0 until it is started.
    """

    def __init__(self, name: str, received: Callable[[AnyFrame], None]) -> None:
        self.name = name
        self.pid = 0
        self._received = received
        self._control: _ControlEnd | None = None
        self._killed_by = ""

    async def start(self, server: ForkServer, target: Callable[..., None], *args: Any) -> None:
        """Start `target(control, *args)`; the child's end of the control socket is its first argument.

        Raises:
            OSError, EOFError: it could not be started.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = await server.start(target, theirs, *args)
        except (OSError, EOFError):
            ours.close()  # the end of a child that was forked all the same
            raise
        self.pid = self._process.pid or 0
        loop = asyncio.get_running_loop()
        _, self._control = await loop.create_unix_connection(lambda: _ControlEnd(self._received), sock=ours)

    def send(self, frame: Frame) -> None:
        """Send to a child that runs; one that is only being started hears nothing."""
        if self._control:
            self._control.send(frame)

    def kill(self, cause: str = "") -> None:
        """End it at once; `cause` is what its death is then called."""
        self._killed_by = self._killed_by or cause
        if self.pid:  # to the kernel, 0 would mean everybody in our group
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def ended(self) -> str:
        """Wait for its end; returns the cause given to `kill`, a signal, an `ExitCode`, `exit N`, or `unknown`."""
        await wait_for_end(self.pid)
        self.pid = 0  # another process's from now on: nobody may kill it
        # The fork server reaps it and tells why; a dead fork server cannot, and then nobody knows.
        await asyncio.get_running_loop().run_in_executor(None, self._process.join, 1.0)
        if self._control:
            self._control.transport.close()
        cause = _cause(self._process.exitcode)
        with contextlib.suppress(ValueError):  # the fork server could not tell of its end; the collector closes it
            self._process.close()  # its handle would stay until a full collection
        return self._killed_by or cause


class _ControlEnd(FrameProtocol):
    def __init__(self, received: Callable[[AnyFrame], None]) -> None:
        super().__init__()
        self._received = received

    def frame_received(self, frame: AnyFrame) -> None:
        self._received(frame)


#: What multiprocessing reports when the fork server died before it could tell.
_UNKNOWN_EXIT = 255


def _cause(exitcode: int | None) -> str:
    if exitcode is None or exitcode == _UNKNOWN_EXIT:
        return "unknown"
    if exitcode < 0:
        return signal.Signals(-exitcode).name
    if exitcode in set(ExitCode):
        return ExitCode(exitcode).cause
    return f"exit {exitcode}"
