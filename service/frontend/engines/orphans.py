"""Requests that no engine has: each waits for the next one that serves its model, at most until its deadline."""

from __future__ import annotations

from collections.abc import Iterator

from service.frontend.engines.connection import Pending


class Orphans:
    """Requests by id, in the order in which they came.

    Attributes:
        examples: the number of examples of all of them.
    """

    def __init__(self) -> None:
        self._by_id: dict[int, Pending] = {}
        self.examples = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._by_id.values())

    def add(self, pending: Pending) -> None:
        self._by_id[pending.frame.id] = pending
        self.examples += pending.frame.count

    def discard(self, pending: Pending) -> None:
        """Drop a request that waits no more, if it is here."""
        if self._by_id.pop(pending.frame.id, None):
            self.examples -= pending.frame.count

    def take_all(self) -> list[Pending]:
        """Return every request, and keep none."""
        taken = list(self)
        self._by_id.clear()
        self.examples = 0
        return taken
