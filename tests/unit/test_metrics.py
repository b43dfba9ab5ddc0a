"""What a process counts is shown by all, and outlives it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from service.errors import BY_NAME
from service.host.metric_memory import forget_gauges, make_metric_memory
from service.metrics import Metrics, RequestMetrics, render

OK = 'gradless_requests_total{model="flowers",protocol="gradless",status="200"}'
DEPTH = 'gradless_queue_depth{model="flowers"}'
CAP = 'gradless_batch_cap{model="flowers"}'
DROPPED = "gradless_metrics_dropped_total"


@pytest.fixture
def memory():
    return make_metric_memory()


def shown(memory) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in render(memory)[0].decode().splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in lines}


def test_counters_and_sums_of_all_roles_are_added_and_the_latest_is_the_latest(memory):
    first = Metrics("engine-a", memory)
    first.requests.labels("flowers", "gradless", "200").inc(2)
    first.batch_size.labels("flowers").observe(3)
    first.queue_depth.labels("flowers").set(2)
    first.batch_cap.labels("flowers").set(8)
    second = Metrics("engine-b", memory)
    second.requests.labels("flowers", "gradless", "200").inc()
    second.batch_size.labels("flowers").observe(5)
    second.queue_depth.labels("flowers").set(5)
    second.batch_cap.labels("flowers").set(4)
    found = shown(memory)
    assert (found[OK], found[DEPTH], found[CAP], found[DROPPED]) == (3, 7, 4, 0)
    buckets = [found[f'gradless_batch_size_bucket{{le="{le}",model="flowers"}}'] for le in ("2.0", "4.0", "8.0")]
    assert buckets == [0, 1, 2]
    assert found['gradless_batch_size_sum{model="flowers"}'] == 8


def test_a_new_process_of_a_role_counts_on_and_drops_the_gauges_of_the_dead(memory):
    dead = Metrics("engine-a", memory)
    dead.requests.labels("flowers", "gradless", "200").inc()
    dead.queue_depth.labels("flowers").set(2)
    assert shown(memory)[DEPTH] == 2
    Metrics("engine-a", memory).requests.labels("flowers", "gradless", "200").inc()
    assert DEPTH not in shown(memory)
    assert shown(memory)[OK] == 2


def test_of_a_dead_process_that_nobody_replaces_the_gauges_are_forgotten_and_no_others(memory):
    for role in ("engine-a", "engine-b"):
        metrics = Metrics(role, memory)
        metrics.requests.labels("flowers", "gradless", "200").inc()
        metrics.queue_depth.labels("flowers").set(2)
    forget_gauges(memory, "engine-b")
    forget_gauges(memory, "never-there")
    assert (shown(memory)[OK], shown(memory)[DEPTH]) == (2, 2)


def test_an_empty_memory_is_an_empty_page(memory):
    assert render(memory)[0] == b""


#: Counts in a process of its own, whose limit on the size of files leaves the memory no room, or some.
LIMITED = """\
import json, resource, sys
import structlog
from service.host import metric_memory
from service.host.metric_memory import make_metric_memory
from service.metrics import Metrics, render

said = []
structlog.configure(processors=[lambda logger, name, event: said.append(event["event"]) or ""])
memory = make_metric_memory()
if sys.argv[1] == "none":
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 1 << 40))
else:
    metric_memory.TABLE_BYTES = 1 << 14  # one step
    metric_memory._AREA_BYTES = metric_memory.HEAD_BYTES + 4 * metric_memory.TABLE_BYTES
metrics = Metrics("engine-a", memory)
for number in range(200):
    metrics.requests.labels(f"m{number}", "gradless", "200").inc(2)
    metrics.queue_depth.labels(f"m{number}").set(1)
print(json.dumps([said, render(memory)[0].decode()]))
"""


def limited(how: str) -> tuple[list[str], dict[str, float]]:
    done = subprocess.run([sys.executable, "-c", LIMITED, how], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said, text = json.loads(done.stdout.splitlines()[-1])
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#"]
    return said, {name: float(value) for name, value in lines}


def test_with_no_memory_at_all_counting_goes_on_and_the_log_says_so_once():
    said, found = limited("none")
    assert said == ["metrics dropped"]
    assert found == {}


def test_samples_for_which_there_is_no_memory_are_counted_as_dropped_and_the_others_are_right():
    said, found = limited("some")
    assert said == ["metrics dropped"]
    kept = [value for name, value in found.items() if name.startswith("gradless_requests_total")]
    depths = [value for name, value in found.items() if name.startswith("gradless_queue_depth")]
    assert 0 < len(kept) < 200
    assert set(kept) == {2}
    assert 0 < len(depths) < 200
    assert found[DROPPED] == 400 - len(kept) - len(depths)


def test_every_refusal_and_every_status_of_a_model_is_there_at_0(memory):
    RequestMetrics(Metrics("frontend-0", memory), "flowers")
    text = render(memory)[0].decode()
    for name, refusal in BY_NAME.items():
        assert f'gradless_rejected_total{{model="flowers",reason="{name}"}} 0.0' in text
        status = f'{{model="flowers",protocol="gradless",status="{refusal.status}"}}'
        assert f"gradless_requests_total{status} 0.0" in text
    assert 'gradless_replayed_requests_total{model="flowers"} 0.0' in text
