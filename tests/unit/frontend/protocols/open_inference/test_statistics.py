"""Triton's counts and times, from what every process of a server has counted."""

from __future__ import annotations

import pytest

from service.frontend.protocols.open_inference.statistics import Statistics
from service.host.metric_memory import make_metric_memory
from service.metrics import BatchMetrics, Metrics, RequestMetrics


@pytest.fixture
def found() -> Statistics:
    """Two front ends and an engine, and another model whose counts are not the first one's."""
    memory = make_metric_memory()
    for number in range(2):
        front_end = Metrics(f"frontend-{number}", memory)
        for model, times in (("m", 1), ("other", 10)):
            RequestMetrics(front_end, model, ["open_inference"])
            front_end.requests.labels(model, "gradless", "200").inc(2 * times)
            front_end.requests.labels(model, "open_inference", "200").inc(3 * times)
            front_end.requests.labels(model, "open_inference", "400").inc(times)
            front_end.requests.labels(model, "gradless", "503").inc(times)
            front_end.request_duration.labels(model).observe(0.5 * times)
    engine = Metrics("engine-cpu", memory)
    batch = BatchMetrics(engine, "m")
    for size in (1, 8):
        batch.size.observe(size)
        batch.queue.observe(0.25)
        batch.collate.observe(0.125)
        batch.forward.observe(0.5)
        batch.postprocess.observe(0.0625)
    return Statistics.read(memory)


def test_examples_and_batches_are_those_of_the_model(found):
    counts = found.of("m")
    assert (counts["inference_count"], counts["execution_count"]) == (9, 2)


def test_requests_of_every_protocol_and_process_are_added(found):
    stats = found.of("m")["inference_stats"]
    assert stats["success"] == {"count": 10, "ns": 1_000_000_000}
    assert stats["fail"] == {"count": 4, "ns": 0}


def test_stages_have_triton_s_names(found):
    stats = found.of("m")["inference_stats"]
    assert stats["queue"] == {"count": 2, "ns": 500_000_000}
    assert stats["compute_input"] == {"count": 2, "ns": 250_000_000}
    assert stats["compute_infer"] == {"count": 2, "ns": 1_000_000_000}
    assert stats["compute_output"] == {"count": 2, "ns": 125_000_000}


def test_a_model_that_was_never_asked_has_zeros(found):
    nothing = found.of("never")
    assert (nothing["inference_count"], nothing["execution_count"], nothing["batch_stats"]) == (0, 0, [])
    assert all(each == {"count": 0, "ns": 0} for each in nothing["inference_stats"].values())
