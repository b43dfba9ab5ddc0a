"""Rows E1, E2, E11, E12, E18 and L3 of the fault matrix, each broken for real and under load."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.engine.model import DEFAULT_CAP
from tests.support.models import direct, make_models, photographs
from tests.support.server import Server, wait_for
from tests.support.traffic import JPEG, Traffic


@pytest.fixture(scope="module")
def recovering(two_models) -> Iterator[Server]:
    """A server that each test leaves as whole as it found it, if with other processes."""
    with Server(two_models, "--default-model", "one", "--front-ends", "2") as running:
        yield running.started()


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.full)])
def test_e1_kills_of_the_engine_fail_no_request_and_no_counter_falls(recovering, two_models, kills):
    model = direct(two_models, "one")
    server = recovering
    died = server.metric("gradless_engine_restarts_total", device="cpu", reason="SIGKILL")
    replayed = server.settled("gradless_replayed_requests_total", model="one")
    ran = server.settled("gradless_batch_size_sum", model="one")
    before = server.settled("gradless_requests_total", status="200")
    counted, recovered = [], []
    with Traffic(server, 16) as traffic:
        for _ in range(kills):
            traffic.wait_for_answers(100)
            counted.append(server.metric("gradless_requests_total", status="200"))
            engine = server.engine()
            killed = time.monotonic()
            os.kill(engine, signal.SIGKILL)
            wait_for(lambda dead=engine: server.pids("gradless: engine") not in ([], [dead]), 30, "a new engine")
            wait_for(server.is_ready, 30, "ready")
            recovered.append(traffic.wait_for_answer_after(time.monotonic()) + time.monotonic() - killed)
        traffic.wait_for_answers(100)
    traffic.assert_all_right(model)
    counted.append(server.settled("gradless_requests_total", status="200"))
    assert counted == sorted(counted)
    assert counted[-1] - before == len(traffic.answers)
    assert server.metric("gradless_engine_restarts_total", device="cpu", reason="SIGKILL") - died == kills
    assert server.metric("gradless_replayed_requests_total", model="one") > replayed
    # A batch is counted right after its answers, so each kill may take one's number with it.
    ran = server.settled("gradless_batch_size_sum", model="one") - ran
    assert ran >= len(traffic.answers) - kills * DEFAULT_CAP["cpu"]
    print("seconds from kill to answers:", [f"{seconds:.2f}" for seconds in recovered])


def test_out_of_memory_the_kernel_takes_an_engine_and_no_process_that_holds_connections(recovering):
    server = recovering
    score = {pid: int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (p.pid for p in server.tree())}
    engine = score.pop(server.engine())
    assert engine >= 500
    assert max(score.values()) < engine


POISONED = """\
import ctypes

import torch
from torch import nn


class Poisoned(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(8)
        self.last = nn.Linear(48, 10)

    def forward(self, x):
        if bool((x.amin(dim=(1, 2, 3)) > 2).any()):  # a white picture
            ctypes.string_at(0)
        return self.last(torch.flatten(self.pool(x), 1))


def poisoned():
    return Poisoned()
"""
POISONED_CARD = """\
weights = "random:1"
architecture = "architecture:poisoned"
[input]
resize = 32
crop = 32
"""


@pytest.fixture(scope="module")
def poisoned_models(tmp_path_factory):
    models = make_models(tmp_path_factory.mktemp("poisoned") / "models", poisoned=POISONED_CARD)
    (models / "poisoned" / "architecture.py").write_text(POISONED)
    return models


WHITE = {"instances": [[[[255, 255, 255]] * 40] * 40]}


def test_e2_a_picture_that_crashes_the_model_costs_two_engines_and_fails_alone(serve, poisoned_models):
    model = direct(poisoned_models, "poisoned")
    server = serve(poisoned_models)
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(50)
        answer = httpx.post(f"{server.url}/predict", json=WHITE, timeout=60)
        traffic.wait_for_answers(50)
    assert answer.status_code == 500
    assert answer.json()["type"].endswith("input_crashes_model")
    traffic.assert_all_right(model)
    assert server.metric("gradless_engine_restarts_total", device="cpu", reason="SIGSEGV") == 2


def test_e11_a_killed_front_end_is_replaced_and_the_others_connections_live(recovering):
    server = recovering
    first = wait_for(lambda: server.pids("gradless: front end 0"), 30, "a front end")[0]
    with httpx.Client() as session:
        # a connection that the other front end holds: connect until the first one has none of ours
        os.kill(first, signal.SIGSTOP)
        assert session.get(f"{server.url}/health/live", timeout=30).status_code == 200
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: server.pids("gradless: front end 0") not in ([], [first]), 30, "a new front end 0")
        assert session.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG).status_code == 200
    wait_for(server.is_ready, 30, "ready")


def test_e12_when_the_supervisor_is_killed_everything_ends(serve, two_models):
    server = serve(two_models, "--default-model", "one")
    with Traffic(server, 4) as traffic:
        traffic.wait_for_answers(20)
        server.process.kill()
        wait_for(lambda: not server.tree(), 5, "the end of every process")
    assert server.tree() == []


def test_e18_a_killed_fork_server_costs_nothing_and_no_engine_gets_a_twin(recovering, two_models):
    model = direct(two_models, "one")
    server = recovering
    engine = server.engine()
    fork_server = server.pids("gradless: fork server")
    assert len(fork_server) == 1
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(20)
        os.kill(fork_server[0], signal.SIGKILL)
        wait_for(lambda: server.pids("gradless: fork server") not in ([], fork_server), 30, "a new fork server")
        traffic.wait_for_answers(100)
        assert server.pids("gradless: engine") == [engine]
        os.kill(engine, signal.SIGKILL)
        wait_for(lambda: server.pids("gradless: engine") not in ([], [engine]), 30, "a new engine")
        traffic.wait_for_answers(100)
        assert len(server.pids("gradless: engine")) == 1
    traffic.assert_all_right(model)


def test_l3_a_request_past_its_deadline_never_reaches_the_device(recovering):
    server = recovering
    engine, brief = server.engine(), JPEG | {"X-Timeout-Ms": "100"}
    assert httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG).status_code == 200
    ran = server.settled("gradless_batch_size_sum", model="one")
    os.kill(engine, signal.SIGSTOP)
    try:
        late = [httpx.post(f"{server.url}/predict", content=photographs()[0], headers=brief) for _ in range(5)]
    finally:
        os.kill(engine, signal.SIGCONT)
    assert [answer.status_code for answer in late] == [504] * 5
    assert httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG).status_code == 200
    assert server.settled("gradless_batch_size_sum", model="one") == ran + 1
