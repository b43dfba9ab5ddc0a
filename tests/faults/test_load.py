"""Rows L1, L3 and L4 of the fault matrix: more than it can do, sooner than it can be done, and one model flooded."""

from __future__ import annotations

import asyncio
import statistics
import threading
from collections.abc import Iterator

import pytest

from tests.support.models import make_models, photographs
from tests.support.open_loop import Exchange, open_loop
from tests.support.server import Server, wait_for

CARD = """\
weights = "random:1"
architecture = "architecture:paced"
[input]
resize = 32
crop = 32
"""
#: 28 pictures a second whatever the machine: it waits, so that the generator and the front end have the cores.
CODE = """\
import time

from torch import nn


class Paced(nn.Sequential):
    def forward(self, x):
        time.sleep(len(x) / 28)
        return super().forward(x)


def paced():
    return Paced(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
"""
DEADLINE_MS = 2000


pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def paced(tmp_path_factory) -> Iterator[Server]:
    """One server of two such models, which take turns where both are asked."""
    models = make_models(tmp_path_factory.mktemp("load") / "models", paced=CARD, calm=CARD)
    for name in ("paced", "calm"):
        (models / name / "architecture.py").write_text(CODE)
    with Server(models, "--default-model", "calm") as running:
        yield running.started()


def drive(
    server: Server, rate: float, seconds: float, deadline_ms: int = DEADLINE_MS, model: str = "paced"
) -> list[Exchange]:
    picture = photographs()[0]
    head = (
        f"POST /models/{model}/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
        f"X-Timeout-Ms: {deadline_ms}\r\nContent-Length: {len(picture)}\r\n\r\n"
    )
    return asyncio.run(open_loop(server.port, head.encode() + picture, rate, seconds, deadline_ms / 1000 + 5))


def answered(exchanges: list[Exchange], status: int) -> list[Exchange]:
    return [exchange for exchange in exchanges if exchange.status == status]


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_l1_at_ten_times_capacity_nine_tenths_of_it_are_answered_and_the_rest_told_at_once(paced, seconds):
    capacity = len(answered(drive(paced, 40, seconds / 2), 200)) / (seconds / 2)
    before = paced.pss()
    exchanges = drive(paced, 10 * capacity, seconds)
    good, refused = answered(exchanges, 200), answered(exchanges, 503)
    late = answered(exchanges, 504)
    times = sorted(exchange.seconds for exchange in good)
    print(
        f"capacity {capacity:.1f}/s; {len(exchanges)} sent, {len(good)} answered, {len(refused)} refused, "
        f"{len(late)} late; p99 of answers {times[int(0.99 * len(times))]:.2f} s; "
        f"median refusal {statistics.median(e.seconds for e in refused) * 1000:.1f} ms"
    )
    assert [exchange.error for exchange in exchanges if exchange.error] == []
    assert len(good) + len(refused) + len(late) == len(exchanges)
    assert len(good) / seconds >= 0.9 * min(capacity, 28)
    assert statistics.median(exchange.seconds for exchange in refused) <= 0.05
    assert all(int(exchange.retry_after) >= 1 for exchange in refused)
    assert times[int(0.99 * len(times))] <= DEADLINE_MS / 1000
    assert len(late) <= len(good) / 10
    assert paced.pss() < before * 1.1


def test_l3_a_deadline_shorter_than_the_queue_is_refused_at_the_door(paced):
    before = paced.settled("gradless_batch_size_sum", model="paced")
    exchanges = drive(paced, 150, 3, deadline_ms=400)
    good, refused = answered(exchanges, 200), answered(exchanges, 503)
    assert len(good) >= 0.8 * 3 * 28
    assert len(refused) > len(exchanges) / 2
    ran = paced.settled("gradless_batch_size_sum", model="paced") - before
    assert ran <= 1.1 * len(good) + 8  # what was run was answered, but for what became late in its own forward


def test_l4_a_flooded_model_costs_another_one_batch_of_its_own_at_most(paced):
    server = paced
    alone = sorted(exchange.seconds for exchange in drive(server, 4, 3, model="calm"))
    flood = threading.Thread(target=drive, args=(server, 150, 4.5))  # it fills its queue in tenths of a second
    flood.start()
    try:
        wait_for(lambda: server.metric("gradless_queue_depth", model="paced") > 8, 10, "a flood")
        beside = drive(server, 4, 3, model="calm")
    finally:
        flood.join()
    assert [exchange.status for exchange in beside] == [200] * len(beside)
    slowest = max(exchange.seconds for exchange in beside)
    batch = 8 / 28
    print(f"slowest of {len(beside)}: {alone[-1]:.2f} s alone, {slowest:.2f} s beside a flood; a batch {batch:.2f} s")
    assert slowest <= alone[-1] + 2 * batch  # the one that runs, and a second request of its own behind it
