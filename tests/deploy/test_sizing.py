"""The queueing formula of docs/deploy.md, held against two replicas behind a proxy that draws lots."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.support.models import make_models, photographs
from tests.support.open_loop import open_loop
from tests.support.proxy import HAPROXY, free_ports, proxy
from tests.support.traffic import Traffic

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not HAPROXY, reason="Debian's package haproxy is not installed"),
    pytest.mark.timeout(600),
]

SERVICE_SECONDS = 0.04
CARD = """\
task = "classification"
weights = "random:1"
architecture = "architecture:paced"
[input]
resize = 32
crop = 32
[batching]
max_batch_size = {cap}
"""
#: It waits and takes no core, so that two replicas, the proxy and the clients fit on any machine.
CODE = f"""\
import time

from torch import nn


class Paced(nn.Sequential):
    def forward(self, x):
        time.sleep({SERVICE_SECONDS})
        return super().forward(x)


def paced():
    return Paced(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
"""
SECONDS = 120.0
#: Of an ideal queue the mean over a minute has a standard deviation of 12 %, and the proxy and clients take cores too.
TOLERANCE = 0.35


def wait_of_one(rate: float, service: float) -> float:
    """Mean seconds in the queue of M/D/1, at `rate` requests a second (Pollaczek-Khinchine)."""
    busy = rate * service
    return busy * service / (2 * (1 - busy))


def totals(servers) -> tuple[float, float]:
    """Seconds waited in the queue, and requests that did, over all replicas."""
    name = "gradless_stage_duration_seconds"
    return (
        sum(server.metric(f"{name}_sum", stage="queue") for server in servers),
        sum(server.metric(f"{name}_count", stage="queue") for server in servers),
    )


def measure(serve, folder, cap: int, busy: float) -> tuple[float, float]:
    """Mean seconds waited by requests of which so many come that one replica is `busy`, and what the formula says.

    What a request takes is known from what a replica answers a second when there is always another one.
    """
    models = make_models(folder / "models", paced=CARD.format(cap=cap))
    (models / "paced" / "architecture.py").write_text(CODE)
    ports = free_ports(2)
    replicas = [serve(models, "--port", str(port)) for port in ports]
    with Traffic(replicas[0], 4) as traffic:
        traffic.wait_for_answers(20)
        start, number = time.monotonic(), len(traffic.answers)
        traffic.wait_for_answers(300)
        service = (time.monotonic() - start) / (len(traffic.answers) - number)
    if cap > 1:
        service = SERVICE_SECONDS  # of one by itself
    rate = 2 * busy / service
    with proxy(folder, *ports, balance="random(1)") as front:
        before = totals(replicas)
        answers = asyncio.run(open_loop(int(front.url.rpartition(":")[2]), request(), rate, SECONDS, 10))
        after = totals(replicas)
    assert {answer.status for answer in answers} == {200}
    return (after[0] - before[0]) / (after[1] - before[1]), wait_of_one(len(answers) / SECONDS / 2, service)


def request() -> bytes:
    picture = photographs()[0]
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
    return head.encode() + picture


@pytest.mark.parametrize("busy", [0.5, 0.7])
def test_one_at_a_time_two_replicas_wait_as_long_as_the_formula_says(serve, tmp_path, busy):
    waited, formula = measure(serve, tmp_path, 1, busy)
    print(f"\n{busy:.0%} busy: waited {waited * 1000:.1f} ms, the formula says {formula * 1000:.1f} ms")
    assert waited == pytest.approx(formula, rel=TOLERANCE)


def test_in_batches_they_wait_no_longer_than_the_formula_says(serve, tmp_path):
    waited, formula = measure(serve, tmp_path, 8, 0.7)
    print(f"\n70 % busy, in batches of up to 8: waited {waited * 1000:.1f} ms, one at a time {formula * 1000:.1f} ms")
    assert waited < formula
