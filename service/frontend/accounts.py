"""What is counted of requests: noted as it happens, and written to the metrics when nobody waits for it."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from service.metrics import Metrics, RequestMetrics

#: What is noted is written after so long, and before this process shows the metrics; another front end may show them so
#: much earlier. One that is killed takes as much with it, of requests whose connections it breaks.
SETTLE_SECONDS = 0.05


class Ended(NamedTuple):
    """A request that has its answer. Times are seconds.

    Attributes:
        label: the model's name, or `unknown`.
        refused: the refusal's name; empty with a 200.
        decoding: of each time that it was decoded.
    """

    label: str
    status: int
    refused: str
    duration: float
    decoding: list[float]


class Accounts:
    """Of one front end; only its event loop touches them.

    To write those of one request takes 40 µs once a forward has swept the caches, for which a client that asks again at
    once would wait.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._models: dict[str, RequestMetrics] = {}
        self._ended: list[Ended] = []
        self._timer: asyncio.TimerHandle | None = None

    def open(self, label: str) -> RequestMetrics:
        """From now on its counters are there, at 0."""
        if label not in self._models:
            self._models[label] = RequestMetrics(self._metrics, label)
        return self._models[label]

    def began(self, label: str) -> None:
        self.open(label).requests_in_flight += 1
        self._settle_soon()

    def ended(self, request: Ended) -> None:
        self._models[request.label].requests_in_flight -= 1
        self._ended.append(request)
        self._settle_soon()

    def _settle_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_SECONDS, self.settle)

    def settle(self) -> None:
        """Write down all that was noted."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        ended, self._ended = self._ended, []  # none is counted twice, whatever becomes of the others
        for counted in self._models.values():
            counted.in_flight.set(counted.requests_in_flight)
        for request in ended:
            self._write(request)

    def _write(self, request: Ended) -> None:
        counted = self._models[request.label]
        if request.status == 200:
            counted.ok.inc()
        else:
            self._metrics.requests.labels(request.label, "gradless", str(request.status)).inc()
        if request.refused:
            self._metrics.rejected.labels(request.label, request.refused).inc()
        counted.duration.observe(request.duration)
        for seconds in request.decoding:
            counted.decode.observe(seconds)
