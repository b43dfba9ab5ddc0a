"""The shipped server on a GPU: right answers, its memory in the metrics, and faults that only a GPU has."""

from __future__ import annotations

import os
import signal

import httpx
import pytest

from tests.support.coloured import ask, fragile_code, make_coloured, restarts
from tests.support.gpu import DEVICE, TOLERANCE, needs_gpu
from tests.support.models import direct
from tests.support.server import wait_for
from tests.support.traffic import Traffic

pytestmark = needs_gpu

ON_GPU = ("--device", DEVICE)

#: What a picture of one colour makes the GPU do; a file beside it changes what all do.
FORWARD = """\
        time.sleep(0.002 * len(x))  # so that requests meet in batches
        if len(x) > 2 and (HERE / "short of memory").exists():
            torch.empty(1 << 42, device=x.device)
        blue = (x[:, 2, 0, 0] == 255) & (x[:, 0, 0, 0] == 0) & (x[:, 1, 0, 0] == 0)
        if blue.any() and not (HERE / "lost").exists():
            (HERE / "lost").touch()
            torch.zeros(1, device=x.device)[blue.long() * 77]
"""
BLUE = (0, 0, 255)


@pytest.fixture
def fragile(tmp_path):
    return make_coloured(tmp_path / "models", "fragile", fragile_code(FORWARD))


def test_it_answers_right_and_says_how_it_runs(serve, two_models):
    server = serve(two_models, "--default-model", "one", *ON_GPU)
    with Traffic(server, 16) as traffic:
        traffic.wait_for_answers(400)
    traffic.assert_all_right(direct(two_models, "one"), TOLERANCE)
    shown = httpx.get(f"{server.url}/models/one").json()
    assert shown["cuda_graphs"] == shown["batch_sizes"] == [1, 2, 4, 8, 16, 32]
    assert all(rule["passed"] for rule in httpx.get(f"{server.url}/models/one/proof").json()["rules"])
    memory = {
        kind: server.metric("gradless_device_memory_bytes", device=DEVICE, kind=kind)
        for kind in ("allocated", "reserved", "peak", "total")
    }
    assert 0 < memory["allocated"] <= memory["peak"] <= memory["total"]
    assert memory["allocated"] <= memory["reserved"] <= memory["total"]


def test_a_killed_engine_loses_nothing(serve, two_models):
    server = serve(two_models, "--default-model", "one", *ON_GPU)
    with Traffic(server, 16) as traffic:
        for kill in range(1, 4):
            traffic.wait_for_answers(100)
            os.kill(server.engine(), signal.SIGKILL)
            wait_for(lambda kill=kill: restarts(server, "SIGKILL", DEVICE) == kill, 30, "a restart")
        traffic.wait_for_answers(100)
    traffic.assert_all_right(direct(two_models, "one"), TOLERANCE)


def test_too_little_memory_makes_smaller_batches_and_nobody_sees_it(serve, fragile):
    server = serve(fragile, *ON_GPU)
    assert any("no CUDA graphs" in line for line in server.log)  # its forward waits for the GPU
    with Traffic(server, 16) as traffic:
        traffic.wait_for_answers(50)
        (fragile / "fragile" / "short of memory").touch()
        wait_for(lambda: server.metric("gradless_batch_cap", model="fragile") == 2, 30, "a learned cap")
        traffic.wait_for_answers(100)
    traffic.assert_all_right(direct(fragile, "fragile"), TOLERANCE)
    assert server.metric("gradless_engine_restarts_total", device=DEVICE) == 0


def test_an_assertion_on_the_device_ends_the_engine_and_the_next_one_answers(serve, fragile):
    server = serve(fragile, *ON_GPU)
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(50)
        assert ask(server, BLUE).status_code == 200
        traffic.wait_for_answers(50)
    traffic.assert_all_right(direct(fragile, "fragile"), TOLERANCE)
    assert restarts(server, "device-lost", DEVICE) == 1
