"""Counts of requests: noted as they happen, and written to the metrics when nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from service.metrics import Metrics, RequestMetrics

#: Seconds after which notes are written; they are also written before this process shows the metrics. Another front end
#: may show them that much earlier. One that is killed loses its notes, of requests whose connections it breaks.
SETTLE_SECONDS = 0.05


class Ended(NamedTuple):
    """A request that has its answer. Times are seconds.

    Attributes:
        label: the model's name, or `unknown`.
        protocol: the name of the one that it came by.
        refused: the refusal's name; empty with a 200.
    """

    label: str
    protocol: str
    status: int
    refused: str
    duration: float


class Accounts:
    """Counts of one front end; only its event loop touches them.

    To write those of one request takes 40 µs once a forward has swept the caches, for which a client that asks again at
    once would wait.

    Args:
        protocols: names of those that may be spoken.
    """

    def __init__(self, metrics: Metrics, protocols: Sequence[str] = ()) -> None:
        self._metrics = metrics
        self._protocols = protocols
        self._models: dict[str, RequestMetrics] = {}
        self._ended: list[Ended] = []
        self._decoded: list[tuple[str, float]] = []
        self._timer: asyncio.TimerHandle | None = None

    def open(self, label: str) -> RequestMetrics:
        """Have the counters of a label from now on, at 0."""
        if label not in self._models:
            self._models[label] = RequestMetrics(self._metrics, label, self._protocols)
        return self._models[label]

    def began(self, label: str) -> None:
        self.open(label).requests_in_flight += 1
        self._settle_soon()

    def decoded(self, label: str, seconds: float) -> None:
        """Note that the pictures of a request in flight have been decoded."""
        self._decoded.append((label, seconds))
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
        decoded, self._decoded = self._decoded, []
        for counted in self._models.values():
            counted.in_flight.set(counted.requests_in_flight)
        for label, seconds in decoded:
            self._models[label].decode.observe(seconds)
        for request in ended:
            self._write(request)

    def _write(self, request: Ended) -> None:
        counted = self._models[request.label]
        ok = counted.ok(request.protocol)
        if request.status == 200:
            ok.inc()
        else:
            self._metrics.requests.labels(request.label, request.protocol, str(request.status)).inc()
        if request.refused:
            self._metrics.rejected.labels(request.label, request.refused).inc()
        counted.duration.observe(request.duration)
