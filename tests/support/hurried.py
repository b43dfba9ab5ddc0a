"""A `gradless` whose supervisor waits less, for tests that are not about the length of a wait."""

from __future__ import annotations

import sys


def hurried(**constants: float) -> tuple[str, ...]:
    """The command, for a `Server`; constants of modules of the supervisor, as `watch__LOOK_SECONDS=0.2`."""
    lines = ["import gradless", "from service.supervisor import " + ", ".join({n.split("__")[0] for n in constants})]
    for name, seconds in constants.items():
        place = name.replace("__", ".")
        lines.append(f"assert {place}; {place} = {seconds}")
    return (sys.executable, "-c", "\n".join([*lines, "gradless.main()"]))


#: Of changed files, a reload comes after half a second and not after two.
WATCHFUL = hurried(watch__LOOK_SECONDS=0.2, watch__SETTLED_SECONDS=0.3)
