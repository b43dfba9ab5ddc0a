"""The times at which models are hashed: a piece at a time, while requests leave room for it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator

from service.engine.guard import Guard

#: The share of time that hashing takes of an idle worker, and of one that works.
IDLE_SHARE, BUSY_SHARE = 0.1, 0.01
IDLE_AFTER_SECONDS = 1.0
#: Between two passes over all weights.
REST_SECONDS = 10.0


class SealWatch:
    """Verifies all models again and again, a step at a time, paced so that hardly anybody waits for it.

    A worker counts as idle when it has had no work for a while: one client's next request comes within milliseconds.
    """

    def __init__(self, guards: Iterable[Guard]) -> None:
        self._guards = list(guards)
        self._steps = self._forever()
        self._ended = time.monotonic()
        self._took = 0.0
        self._worked = 0.0

    def add(self, guard: Guard) -> None:
        """Verify one more model."""
        self._guards.append(guard)

    def worked(self) -> None:
        """A batch has just been run."""
        self._worked = time.monotonic()

    def due_in(self) -> float | None:
        """Seconds until the next step may run; None where there is nothing to hash."""
        if not self._guards:
            return None
        now = time.monotonic()
        busy = self._ended + self._took * (1 / BUSY_SHARE - 1) - now
        idle = max(self._worked + IDLE_AFTER_SECONDS, self._ended + self._took * (1 / IDLE_SHARE - 1)) - now
        return max(0.0, min(busy, idle))

    def step(self) -> None:
        """Verify one piece.

        Raises:
            CaughtError: it was the last of a model whose seal is broken.
        """
        began = time.monotonic()
        rest = next(self._steps)
        self._ended = time.monotonic()
        self._took = self._ended - began
        self._ended += rest

    def _forever(self) -> Generator[float, None, None]:
        """A step at a time; yields the seconds to rest after it."""
        for guard in self._around():
            for _ in guard.verify_once():
                yield 0.0
            if guard is self._guards[-1]:
                yield REST_SECONDS

    def _around(self) -> Iterator[Guard]:
        """Every guard again and again, those that were added meanwhile too."""
        while True:
            yield from self._guards
