"""All metrics, each defined once.

Every process writes into its role's part of one shared memory (`service.host.metric_memory`), from which any of them
can render all. A restarted engine continues the counts of the one before it, so counters never fall. Each role has one
live process at a time.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values

import service
from service.errors import BY_NAME
from service.host.log_writer import STDERR
from service.host.memory_file import MemoryFile
from service.host.metric_memory import Collector, Drops, tables_of, value_class

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
#: The protocol of `/predict`, and statuses of which alerts take shares.
OWN_PROTOCOL: Final = "gradless"
ALERTING = ("200", "500", "503", "504")
#: How the gauges of several processes are merged: by their sum, or the latest value.
_SUM: Final = "livesum"
_LATEST: Final = "livemostrecent"


class Metrics:
    """The metrics of one process, kept in `memory` under the process's `role`.

    Gauges of an earlier process of the same role are dropped; its counters and histograms go on.
    """

    def __init__(self, role: str, memory: MemoryFile) -> None:
        drops = Drops()
        values.ValueClass = value_class(tables_of(memory, role), drops)
        registry = CollectorRegistry()  # only keeps names unique: values are read from the memory

        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"gradless_{name}", words, labels, registry=registry)

        def gauge(name: str, words: str, *labels: str) -> Gauge:
            return Gauge(f"gradless_{name}", words, labels, registry=registry, multiprocess_mode=_SUM)

        def latest(name: str, words: str, *labels: str) -> Gauge:
            return Gauge(f"gradless_{name}", words, labels, registry=registry, multiprocess_mode=_LATEST)

        def seconds(name: str, words: str, *labels: str) -> Histogram:
            return Histogram(f"gradless_{name}", words, labels, registry=registry, buckets=_SECONDS)

        # Comes first, so that it gets memory if anything does.
        self.dropped = drops.counter = counter("metrics_dropped", "Samples lost for lack of memory.")
        self.requests = counter("requests", "Requests answered.", "model", "protocol", "status")
        self.request_duration = seconds(
            "request_duration_seconds", "Seconds from the first byte to the answer.", "model"
        )
        self.stage_duration = seconds("stage_duration_seconds", "Seconds in each stage.", "model", "stage")
        self.batch_size = Histogram(
            "gradless_batch_size", "Examples in a forward.", ("model",), registry=registry, buckets=_SIZES
        )
        self.queue_depth = gauge("queue_depth", "Examples waiting for the device.", "model")
        self.in_flight = gauge("requests_in_flight", "Requests that are accepted and not yet answered.", "model")
        self.rejected = counter("rejected", "Requests refused.", "model", "reason")
        self.replayed = counter("replayed_requests", "Requests sent again after an engine's death.", "model")
        self.engine_restarts = counter("engine_restarts", "Engines replaced.", "device", "reason")
        self.reloads = counter("reloads", "Reloads that succeeded, or that failed and changed nothing.", "result")
        self.engine_up = gauge("engine_up", "1 while a ready engine serves the device.", "device")
        self.self_check_passed = latest("self_check_passed", "1 if the model passed its self-check.", "model")
        self.batch_cap = latest("batch_cap", "Current batch size limit; lowered after running out of memory.", "model")
        self.rule_waived = latest("rule_waived", "1 for each rule that the model's card waives.", "model", "rule")
        self.grad_graph_violations = counter(
            "grad_graph_violations", "Batches that built a gradient graph or left inference mode.", "model"
        )
        self.seal_intact = latest("seal_intact", "0 once the weights no longer match their seal.", "model")
        self.model_optimization = latest(
            "model_optimization",
            "1 for the current state: compiled, or the reason for answering eager.",
            "model",
            "state",
        )
        self.model_memory = latest("model_memory_bytes", "Bytes of parameters and buffers.", "model", "kind")
        self.process_memory = gauge("process_memory_bytes", "Bytes of memory by process role.", "role", "kind")
        self.memory_limit = latest(
            "memory_limit_bytes", "Memory limit of the server's cgroup; absent if there is none.", "cgroup"
        )
        self.memory_usage = latest("memory_usage_bytes", "Working set that counts against that limit.", "cgroup")
        self.device_memory = latest("device_memory_bytes", "Bytes held by torch's allocator.", "device", "kind")
        self.model_info = latest("model_info", "Models being served.", "model", "version", "task", "device")
        self.log_lines_dropped = counter("log_lines_dropped", "Log lines that could not be written to standard error.")
        STDERR.tell_drops(self.log_lines_dropped.inc)
        self.build_info = latest("build_info", "Versions of Gradless, torch and Python.", "version", "torch", "python")

    def announce_build(self, torch_version: str) -> None:
        self.build_info.labels(service.__version__, torch_version, platform.python_version()).set(1)


class RequestMetrics:
    """Metrics of the requests to one model, looked up once, because `labels()` costs as much as counting.

    Every counter is there at 0 before its first event: one that appears at 1 has not increased, and a person who looks
    for it finds nothing. That makes 40 lines per model, and as many again for a protocol once somebody speaks it; until
    then it has those that alerts look at.
    """

    def __init__(self, metrics: Metrics, model: str, protocols: Iterable[str] = ()) -> None:
        self.in_flight = metrics.in_flight.labels(model)
        self.duration = metrics.request_duration.labels(model)
        self.decode = metrics.stage_duration.labels(model, "decode")
        self._metrics, self._model = metrics, model
        self._ok: dict[str, Counter] = {}
        metrics.replayed.labels(model)
        for name in BY_NAME:
            metrics.rejected.labels(model, name)
        for protocol in protocols:
            for status in ALERTING:
                metrics.requests.labels(model, protocol, status)
        self.ok(OWN_PROTOCOL)
        self.requests_in_flight = 0

    def ok(self, protocol: str) -> Counter:
        """Return the counter of answers; the first time, have those of a protocol's refusals too, at 0."""
        if protocol not in self._ok:
            self._ok[protocol] = self._metrics.requests.labels(self._model, protocol, "200")
            for refusal in BY_NAME.values():
                self._metrics.requests.labels(self._model, protocol, str(refusal.status))
        return self._ok[protocol]


class BatchMetrics:
    """Metrics of the batches of one model, looked up once."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        stage = metrics.stage_duration
        self.queue = stage.labels(model, "queue")
        self.collate = stage.labels(model, "collate")
        self.forward = stage.labels(model, "forward")
        self.postprocess = stage.labels(model, "postprocess")
        self.size = metrics.batch_size.labels(model)
        metrics.queue_depth.labels(model)


def render(memory: MemoryFile) -> tuple[bytes, str]:
    """Return the metrics of all processes of this server as text, and the content type of that text."""
    registry = CollectorRegistry()
    registry.register(Collector(memory))
    return generate_latest(registry), prometheus_client.CONTENT_TYPE_LATEST
