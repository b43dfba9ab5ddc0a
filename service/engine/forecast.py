"""When an engine would be done with one more request, as a front end can tell. A pure object, without a clock."""

from __future__ import annotations

from collections.abc import Mapping


class Forecast:
    """One engine's work, in seconds, from what it tells with each answer and from what was sent to it since.

    An engine may have several front ends; each answer says how long all that waits there will take, whoever sent it.

    Args:
        example_seconds: by model, what one example costs in a large batch, as measured at the engine's start.
    """

    def __init__(self, example_seconds: Mapping[str, float]) -> None:
        self._example_seconds = dict(example_seconds)
        self._busy_until = 0.0

    def told(self, now: float, model: str, backlog_seconds: float, example_seconds: float) -> None:
        """An answer came, and with it what still waits in the engine, and the model's pace."""
        self._busy_until = now + backlog_seconds
        self._example_seconds[model] = example_seconds

    def sent(self, now: float, model: str, count: int) -> None:
        """So many examples have just been sent."""
        self._busy_until = max(now, self._busy_until) + self.cost(model, count)

    def cost(self, model: str, count: int) -> float:
        """Seconds that so many examples take; 0 while nothing is known."""
        return count * self._example_seconds.get(model, 0.0)

    def wait(self, now: float) -> float:
        """Seconds until what was sent before is done."""
        return max(0.0, self._busy_until - now)
