"""How long batches take, learned from those that ran. A pure object: no clock and no torch."""

from __future__ import annotations

from collections.abc import Mapping

#: What the newest batch counts for in the running average of its size.
_NEWEST = 0.2


class Pace:
    """Seconds a batch, by model and size.

    Args:
        measured: what is known before the first batch, by model and size.
    """

    def __init__(self, measured: Mapping[str, Mapping[int, float]]) -> None:
        self._average = {model: dict(sizes) for model, sizes in measured.items()}
        self._shortest = {model: min(sizes.values(), default=0.0) for model, sizes in measured.items()}
        self._longest = {model: max(sizes.values(), default=0.0) for model, sizes in measured.items()}

    def record(self, model: str, size: int, seconds: float) -> None:
        sizes = self._average.setdefault(model, {})
        sizes[size] = sizes.get(size, seconds) * (1 - _NEWEST) + seconds * _NEWEST
        self._shortest[model] = min(self._shortest.get(model) or seconds, seconds)
        self._longest[model] = max(self._longest.get(model, 0.0), seconds)

    def example_seconds(self, model: str) -> float:
        """What one more example costs when many wait: its share of the largest batch known; 0 while nothing is."""
        sizes = self._average.get(model)
        if not sizes:
            return 0.0
        largest = max(sizes)
        return sizes[largest] / largest

    def shortest(self, model: str) -> float:
        """The least that any batch of the model ever took: who has not even that much time left cannot be served."""
        return self._shortest.get(model, 0.0)

    def longest(self, model: str) -> float:
        """The most that any batch of the model ever took."""
        return self._longest.get(model, 0.0)
