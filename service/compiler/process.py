"""The child that compiles behind serving: of low priority, with a TMPDIR of its own, gone when it is done."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import structlog
import torch

from service.compiler.compile import Place, compile_model
from service.errors import ConfigurationError
from service.host.allocator import keep_freed_memory
from service.wire.child import ControlConnection, begin_child, prefer_to_be_killed, run_loop, use_temporary
from service.wire.messages import Optimized
from service.wire.specs import CompilerSpec

log = structlog.get_logger()

#: Serving comes first. The work is some twenty seconds of one core whatever its priority, which only says over
#: how long they are spread: beside a saturated server, minutes with 5, and most of an hour with 19.
NICE = 5


def main(control: socket.socket, spec: CompilerSpec) -> None:
    """Entry point of the process; `control` is the control socket, and lifeline, from the supervisor."""
    begin_child(f"compiler {spec.device}", spec.settings)
    os.setpgid(0, 0)  # ends together with the compilers that it starts
    os.nice(NICE)
    prefer_to_be_killed(1000)  # rather than a process that serves
    use_temporary(spec.temporary)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(spec.temporary)
    keep_freed_memory()
    run_loop(lambda: _compile_all(control, spec))


class _Lifeline(ControlConnection):
    def connection_lost(self, exc: Exception | None) -> None:
        os.killpg(0, signal.SIGKILL)


async def _compile_all(control: socket.socket, spec: CompilerSpec) -> None:
    supervisor = await _Lifeline.open(control, lambda frame: None)
    place = Place(torch.device(spec.device), spec.threads, spec.settings.cache)
    loop = asyncio.get_running_loop()
    for folder in spec.folders:
        try:
            judged = await loop.run_in_executor(None, compile_model, folder, place, spec.tunings)
        except Exception as error:  # a fault of this model alone; the others are still to be compiled
            told = isinstance(error, ConfigurationError)
            log.warning("not compiled", model=folder.name, why=str(error), exc_info=None if told else error)
        else:
            supervisor.send(Optimized(judged.model, judged.version, judged.verdict))
