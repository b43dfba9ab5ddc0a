"""Limit of a start: a server that has served no model for long is better started anew, or looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class StartLimit:
    """Calls `give_up(seconds)` when no model has been served for that many seconds."""

    def __init__(self, seconds: float, give_up: Callable[[float], None]) -> None:
        self._seconds = seconds
        self._give_up = give_up
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, serving: bool) -> None:
        if serving and self._timer:
            self._timer.cancel()
            self._timer = None
        elif not serving and not self._timer:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._give_up, self._seconds)
