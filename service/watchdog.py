"""Ends an engine that is silent, or whose forward does not end. The supervisor's, since a stopped process cannot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from service.engine.aboard import read_aboard
from service.processes import Child

log = structlog.get_logger()

#: The cause of death that is told; those aboard get a strike.
CAUSE = "watchdog"
LOOK_SECONDS = 0.25


def overdue(path: Path, now: float, silence_seconds: float) -> str:
    """Why an engine must go, from its aboard file; empty where it need not."""
    seen = read_aboard(path)
    if seen.due and now > seen.due:
        return f"a forward is {now - seen.due:.1f} s past its limit"
    if seen.pulse and now - seen.pulse > silence_seconds:
        return f"no pulse for {now - seen.pulse:.1f} s"
    return ""


async def watch(engines: Callable[[], Iterable[tuple[Child, Path]]], silence_seconds: float) -> None:
    """Look after every engine and its aboard file, until cancelled.

    A look that comes late itself (the whole tree was stopped, or the machine) proves nothing against an engine.
    """
    last = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        now = time.monotonic()
        late, last = now - last > 4 * LOOK_SECONDS, now
        for child, path in [] if late else engines():
            if why := overdue(path, now, silence_seconds):
                log.error("engine ended by the watchdog", pid=child.pid, why=why)
                child.kill(CAUSE)
