"""Meaning of SIGHUP: read the models again or, to a server whose terminal has closed, the end."""

from __future__ import annotations

import os
import signal


class Terminal:
    """The terminal that this process was started from, if any. Under `nohup` it does not matter."""

    def __init__(self) -> None:
        self._had_one = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and _is_there()

    def is_gone(self) -> bool:
        """Tell whether there was one, and it has closed."""
        return self._had_one and not _is_there()


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
