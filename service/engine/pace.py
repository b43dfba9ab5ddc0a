"""Durations of batches, learned from those that ran. A pure object: no clock and no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

#: What the newest batch counts for in the running average of its size.
_NEWEST = 0.2


class Pace:
    """Seconds a batch, by model and size."""

    def __init__(self) -> None:
        self._average: dict[str, dict[int, float]] = {}
        self._shortest: dict[str, dict[int, float]] = {}
        self._longest: dict[str, float] = {}

    def record(self, model: str, size: int, seconds: float) -> None:
        sizes = self._average.setdefault(model, {})
        sizes[size] = sizes.get(size, seconds) * (1 - _NEWEST) + seconds * _NEWEST
        shortest = self._shortest.setdefault(model, {})
        shortest[size] = min(shortest.get(size, seconds), seconds)
        self._longest[model] = max(self._longest.get(model, 0.0), seconds)

    def example_seconds(self, model: str) -> float:
        """Return what one more example costs when many wait: its share of the largest batch known; 0 before any is."""
        sizes = self._average.get(model)
        if not sizes:
            return 0.0
        largest = max(sizes)
        return sizes[largest] / largest

    def backlog_seconds(self, model: str, waiting: Mapping[str, int], caps: Mapping[str, int]) -> float:
        """Return how long what waits for a model will take, with the turns that other models have meanwhile.

        Args:
            waiting, caps: by model, the examples that wait and the most of them in a batch.
        """
        turns = math.ceil(waiting[model] / caps[model]) + 1
        ahead = {other: min(count, turns * caps[other]) for other, count in waiting.items() if other != model}
        return sum(count * self.example_seconds(name) for name, count in (ahead | {model: waiting[model]}).items())

    def shortest(self, model: str, size: int) -> float:
        """The least that a batch of this size, or else a smaller one, ever took; 0 while none ran.

        A request with less time left cannot be served. It is the least and not the average, since a dropped request
        teaches nothing: an average that was once too high would never fall again.
        """
        known = [step for step in self._shortest.get(model, {}) if step <= size]
        return self._shortest[model][max(known)] if known else 0.0

    def longest(self, model: str) -> float:
        """The most that any batch of the model ever took."""
        return self._longest.get(model, 0.0)
