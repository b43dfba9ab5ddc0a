"""Watchdog of the supervisor: it ends an engine that is silent or stuck, as a stopped process cannot end itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import structlog

from service.host.memory_file import MemoryFile
from service.supervisor.processes import Child
from service.wire.aboard import read_aboard

log = structlog.get_logger()

#: The cause of death that is told; those aboard get a strike.
CAUSE = "watchdog"
LOOK_SECONDS = 0.25


def overdue(aboard: MemoryFile, now: float, silence_seconds: float) -> str:
    """Return why an engine must go, from its aboard file; nothing where it need not."""
    seen = read_aboard(aboard)
    if seen.due and now > seen.due:
        return f"a forward is {now - seen.due:.1f} s past its limit"
    if seen.pulse and now - seen.pulse > silence_seconds:
        return f"no pulse for {now - seen.pulse:.1f} s"
    return ""


async def watch(engines: Callable[[], Iterable[tuple[Child, MemoryFile]]], silence_seconds: float) -> None:
    """Look after every engine and its aboard file, until cancelled.

    A look that comes late itself (the whole tree was stopped, or the machine) proves nothing against an engine.
    """
    last = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = time.monotonic()
        late, last = now - last > 4 * LOOK_SECONDS, now
        for child, aboard in [] if late else engines():
            if why := overdue(aboard, now, silence_seconds):
                log.error("engine ended by the watchdog", pid=child.pid, why=why)
                child.kill(CAUSE)
