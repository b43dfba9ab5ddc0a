"""Forecast of when an engine would be done with one more request. A pure object, without a clock."""

from __future__ import annotations

from collections.abc import Mapping


class Forecast:
    """One engine's work, in seconds, from what it tells with each answer and from what was sent to it since.

    An engine may have several front ends; each answer says how long all that waits there for its model will take,
    whoever sent it. Models take turns, so a flood of one is no long wait for another.

    Args:
        example_seconds: by model, what one example costs in a large batch, as measured at the engine's start.
    """

    def __init__(self, example_seconds: Mapping[str, float]) -> None:
        self._example_seconds = dict(example_seconds)
        self._busy_until: dict[str, float] = {}

    def learn(self, model: str, example_seconds: float) -> None:
        """Take the engine's word on a model that no answer has told of yet."""
        self._example_seconds.setdefault(model, example_seconds)

    def told(self, now: float, model: str, backlog_seconds: float, example_seconds: float) -> None:
        """An answer came, and with it what still waits in the engine, and the model's pace."""
        self._busy_until[model] = now + backlog_seconds
        self._example_seconds[model] = example_seconds

    def sent(self, now: float, model: str, count: int) -> None:
        """Take in that `count` examples have just been sent."""
        self._busy_until[model] = max(now, self._busy_until.get(model, 0.0)) + self.cost(model, count)

    def cost(self, model: str, count: int) -> float:
        """Seconds that `count` examples take; 0 while nothing is known."""
        return count * self._example_seconds.get(model, 0.0)

    def wait(self, now: float, model: str) -> float:
        """Seconds until what was sent to the model before is done."""
        return max(0.0, self._busy_until.get(model, 0.0) - now)

    def load(self, now: float) -> float:
        """Seconds of work of all models."""
        return sum(self.wait(now, model) for model in self._busy_until)
