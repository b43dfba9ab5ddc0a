"""Every metric, once.

Several processes write them: prometheus_client's multiprocess mode, with the process's role as its
identifier in place of the pid. A restarted engine goes on counting in its own file, so counters never fall
and the folder does not grow. A role has one live process at a time.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, mmap_dict, values
from prometheus_client.multiprocess import MultiProcessCollector

import service

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
#: How gauges of several processes become one: their sum, or the latest.
_SUM: Final = "livesum"
_LATEST: Final = "livemostrecent"
#: Of which kinds of metric prometheus_client keeps a file for each process.
_FILES = ("counter", "histogram", f"gauge_{_SUM}", f"gauge_{_LATEST}")


class Metrics:
    """The metrics of one process, kept in `folder` under the process's `role`.

    Roles hold no underscore: the library cuts file names there. Gauges of an earlier process of the same
    role are dropped (a gauge must not speak for the dead); its counters and histograms go on.
    """

    def __init__(self, role: str, folder: Path) -> None:
        if "_" in role:
            raise ValueError(f"role {role!r} holds an underscore, at which prometheus_client cuts file names")
        _prepare_files(folder, role)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        values.ValueClass = values.MultiProcessValue(process_identifier=lambda: role)  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()  # values are read from the files; this one only keeps names unique

        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"gradless_{name}", words, labels, registry=registry)

        def gauge(name: str, words: str, *labels: str) -> Gauge:
            return Gauge(f"gradless_{name}", words, labels, registry=registry, multiprocess_mode=_SUM)

        def latest(name: str, words: str, *labels: str) -> Gauge:
            return Gauge(f"gradless_{name}", words, labels, registry=registry, multiprocess_mode=_LATEST)

        def seconds(name: str, words: str, *labels: str) -> Histogram:
            return Histogram(f"gradless_{name}", words, labels, registry=registry, buckets=_SECONDS)

        self.requests = counter("requests", "Requests answered.", "model", "protocol", "status")
        self.request_duration = seconds("request_duration_seconds", "From first byte to answer.", "model")
        self.stage_duration = seconds("stage_duration_seconds", "Time in each stage.", "model", "stage")
        self.batch_size = Histogram(
            "gradless_batch_size", "Examples in a forward.", ("model",), registry=registry, buckets=_SIZES
        )
        self.queue_depth = gauge("queue_depth", "Examples that wait for the device.", "model")
        self.in_flight = gauge("requests_in_flight", "Requests accepted and not yet answered.", "model")
        self.rejected = counter("rejected", "Requests refused.", "model", "reason")
        self.replayed = counter("replayed_requests", "Requests sent again after an engine's death.", "model")
        self.engine_restarts = counter("engine_restarts", "Engines replaced.", "device", "reason")
        self.reloads = counter("reloads", "Reloads ended: succeeded, or failed, which changed nothing.", "result")
        self.engine_up = gauge("engine_up", "1 while a ready engine serves the device.", "device")
        self.self_check_passed = latest("self_check_passed", "1 when the model passed its self-check.", "model")
        self.batch_cap = latest("batch_cap", "Largest batch that is formed now; less after out-of-memory.", "model")
        self.rule_waived = latest("rule_waived", "1 for a rule that the model's card waives.", "model", "rule")
        self.grad_graph_violations = counter(
            "grad_graph_violations", "Batches after which a graph, or no inference mode, was found.", "model"
        )
        self.seal_intact = latest("seal_intact", "0 when the weights are not those that were sealed.", "model")
        self.model_optimization = latest(
            "model_optimization", "1 for the state it is in: compiled, or why it answers eager.", "model", "state"
        )
        self.model_memory = latest("model_memory_bytes", "Memory that the model holds.", "model", "kind")
        self.process_memory = gauge("process_memory_bytes", "Memory by role of process.", "role", "kind")
        self.memory_limit = latest(
            "memory_limit_bytes", "Memory limit of the cgroup the server runs in; absent without one.", "cgroup"
        )
        self.memory_usage = latest(
            "memory_usage_bytes", "What counts against that limit and cannot be dropped: the working set.", "cgroup"
        )
        self.device_memory = latest("device_memory_bytes", "Memory of torch's allocator.", "device", "kind")
        self.model_info = latest("model_info", "What is served.", "model", "version", "task", "device")
        self.build_info = latest("build_info", "What is running.", "version", "torch", "python")

    def announce_build(self, torch_version: str) -> None:
        self.build_info.labels(service.__version__, torch_version, platform.python_version()).set(1)


def _prepare_files(folder: Path, role: str) -> None:
    """Put the files that prometheus_client is about to open in place, each at once and with room in it.

    The library creates a file empty and makes room in it afterwards; whoever reads the metrics in between, or after a
    kill in between, finds less than the file's header and fails.
    """
    for kind in _FILES:
        path = folder / f"{kind}_{role}.db"
        if kind.startswith("gauge") or not path.exists():
            blank = path.with_suffix(".new")  # a name that no reader looks for
            with blank.open("wb") as file:
                file.truncate(mmap_dict._INITIAL_MMAP_SIZE)
            blank.replace(path)


#: What an alert counts exists at 0 before it happens: a counter that appears at 1 has not increased.
SERVER_ERRORS = ("500", "503", "504")
UNAVAILABLE = ("overloaded", "not_ready", "not_replayed", "draining")


class RequestMetrics:
    """What each request to one model touches, looked up once: `labels()` costs as much as the counting."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.in_flight = metrics.in_flight.labels(model)
        self.duration = metrics.request_duration.labels(model)
        self.decode = metrics.stage_duration.labels(model, "decode")
        self.ok = metrics.requests.labels(model, "gradless", "200")
        for status in SERVER_ERRORS:
            metrics.requests.labels(model, "gradless", status)
        for reason in UNAVAILABLE:
            metrics.rejected.labels(model, reason)
        self.requests_in_flight = 0


class BatchMetrics:
    """The same for what each batch of one model touches."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        stage = metrics.stage_duration
        self.queue = stage.labels(model, "queue")
        self.collate = stage.labels(model, "collate")
        self.forward = stage.labels(model, "forward")
        self.postprocess = stage.labels(model, "postprocess")
        self.size = metrics.batch_size.labels(model)


def render(folder: Path) -> tuple[bytes, str]:
    """The metrics of every process of this server, as text, and its content type."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return generate_latest(registry), prometheus_client.CONTENT_TYPE_LATEST
