"""The beginning and end of every child of the supervisor: its name, signals, control socket and exit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import setproctitle
import structlog
import uvloop

from service.logs import configure_logs, end_process
from service.settings import Settings
from service.wire.framing import FrameProtocol
from service.wire.messages import AnyFrame

log = structlog.get_logger()


def begin_child(name: str, settings: Settings) -> None:
    """Take the process's name and leave signals to the supervisor: Ctrl-C reaches the whole group."""
    setproctitle.setproctitle(f"gradless: {name}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    configure_logs(settings)


def use_temporary(folder: Path) -> None:
    """Have this process and its libraries unpack files there; the supervisor wipes it once the process has ended."""
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None


def prefer_to_be_killed(score: int) -> None:
    """Out of memory the kernel rather ends this process than one whose loss costs more; 1000 is the most (proc(5))."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(b"%d" % score)


def run_loop(main: Callable[[], Coroutine[Any, Any, None]]) -> NoReturn:
    """Run to the end of `main` and leave without waiting for threads, which own nothing worth saving.

    An exception is logged and ends the process with 1. multiprocessing would print it, and not wait until it is out.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(main())
        except BaseException:
            log.exception("process died")
            end_process(1)
        end_process(0)


class ControlConnection(FrameProtocol):
    """The child's end of its control socket. When it closes, the supervisor is gone and so is the child."""

    def __init__(self, received: Callable[[AnyFrame], None]) -> None:
        super().__init__()
        self._received = received

    @classmethod
    async def open(cls, descriptor: socket.socket, received: Callable[[AnyFrame], None]) -> ControlConnection:
        loop = asyncio.get_running_loop()
        _, control = await loop.create_unix_connection(lambda: cls(received), sock=descriptor)
        return control

    def frame_received(self, frame: AnyFrame) -> None:
        self._received(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        end_process(1)
