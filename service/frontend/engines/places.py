"""The places of a front end: one for each example that is accepted and not answered yet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from service.errors import Overloaded
from service.settings import Settings

#: Safety factor on a forecast wait: a request that is admitted and then misses its deadline has wasted its place.
PRUDENCE = 1.1


class Outlook(NamedTuple):
    """Seconds until an engine begins with a request, and seconds that the batch it rides in takes; 0 if unknown."""

    wait: float = 0.0
    batch: float = 0.0


class Places:
    """Counts the examples that are accepted and unanswered, and their bytes: `most` of each at once."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self.taken = 0
        self._bytes = 0

    @contextmanager
    def hold(self, count: int, nbytes: int, outlook: Outlook, deadline: float) -> Iterator[None]:
        """Hold places for `count` examples that shall be answered before `deadline` (CLOCK_MONOTONIC seconds).

        A request whose inputs alone are larger than all that may wait is let in when nothing else waits.

        Args:
            nbytes: of their inputs.

        Raises:
            Overloaded: there are fewer places left, or what is there already would take longer than that.
        """
        now = time.monotonic()
        finish = now + PRUDENCE * outlook.wait + outlook.batch
        if self.taken + count > self._most:
            raise Overloaded(f"{self.taken} examples are waiting; the most is {self._most}.", outlook.wait)
        if self._bytes and self._bytes + nbytes > self._most_bytes:
            words = f"The inputs that are waiting take {self._bytes:,} bytes; the most is {self._most_bytes:,}."
            raise Overloaded(words, outlook.wait)
        if outlook.wait and finish > deadline:
            words = f"An answer would take about {finish - now:.1f} s; the deadline is in {deadline - now:.1f} s."
            raise Overloaded(words, finish - deadline)
        self.taken += count
        self._bytes += nbytes
        try:
            yield
        finally:
            self.taken -= count
            self._bytes -= nbytes


def places_of(settings: Settings) -> Places:
    return Places(settings.max_queued_examples, settings.max_queued_bytes)
