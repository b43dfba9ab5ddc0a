"""When to give up: a server that for long has had nobody to answer is better started anew, or looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class StartLimit:
    """Calls `give_up(seconds)` when no model has been served for so long."""

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
