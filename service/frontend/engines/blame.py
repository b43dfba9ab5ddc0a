"""Whose fault an engine's death is: strikes against the requests that were in its forward."""

from __future__ import annotations

import msgspec

from service.errors import InputCrashesModel
from service.frontend.engines.connection import Pending
from service.wire.specs import ExitCode

#: Deaths that an input can cause, as can a process that ends by itself (`exit N`); those aboard get a strike.
CRASHES = frozenset(
    {"SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "watchdog", *(code.cause for code in ExitCode)}
)
#: Any other death (SIGKILL: out of memory, an operator) is nobody's fault until it has hit one request this many times.
KILLS_FOR_A_STRIKE = 5


def blame(pending: Pending, cause: str) -> None:
    """Give a request that was aboard its strike: it goes alone next time. A second strike, alone, ends it."""
    if cause not in CRASHES and not cause.startswith("exit "):
        pending.kills += 1
        if pending.kills < KILLS_FOR_A_STRIKE:
            return
    if pending.frame.alone:
        words = f"The model's process ended twice over this input ({cause}), the second time with it alone."
        pending.future.set_exception(InputCrashesModel(words))
        return
    pending.frame = msgspec.structs.replace(pending.frame, alone=True)
