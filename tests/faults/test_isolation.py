"""Rows E2b, E3, E4, E5, E13 and E14 of the fault matrix: one bad example, a batch too large, an engine that hangs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.coloured import ask, fragile_code, make_coloured, restarts
from tests.support.hurried import hurried
from tests.support.memory import aboard
from tests.support.models import Direct, direct
from tests.support.server import Server, wait_for
from tests.support.traffic import Traffic

#: What a picture of one colour makes it do; a file beside it changes what all do.
FORWARD = """\
        colours = [tuple(int(value) for value in pixel) for pixel in x[:, :, 0, 0]]
        time.sleep(0.002 * len(x))  # so that requests meet in batches
        if (90, 60, 30) in colours:
            time.sleep(1.5)
        if (255, 0, 0) in colours:
            raise ValueError("red")
        if (0, 255, 0) in colours:
            time.sleep(3600)
        if (0, 0, 255) in colours and not (HERE / "lost").exists():
            (HERE / "lost").touch()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if len(x) > 2 and (HERE / "short of memory").exists():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
"""
RED, GREEN, BLUE, GREY, BROWN = (255, 0, 0), (0, 255, 0), (0, 0, 255), (99, 99, 99), (90, 60, 30)


@pytest.fixture(scope="module")
def fragile(tmp_path_factory) -> Path:
    return make_coloured(tmp_path_factory.mktemp("fragile") / "models", "fragile", fragile_code(FORWARD))


@pytest.fixture(scope="module")
def model(fragile) -> Direct:
    return direct(fragile, "fragile")


@pytest.fixture(scope="module")
def running(fragile) -> Iterator[Server]:
    """A server that no watchdog disturbs; an engine that dies has a successor soon."""
    command = hurried(generations__BACKOFF_SECONDS=0.05)
    with Server(fragile, "--watchdog-seconds", "100", command=command) as server:
        yield server.started()


@pytest.fixture
def server(running) -> Server:
    running.wait_ready(60)
    return running


@pytest.fixture(scope="module")
def running_watched(fragile) -> Iterator[Server]:
    with Server(fragile, "--watchdog-seconds", "1") as server:
        yield server.started()


@pytest.fixture
def watched(running_watched) -> Server:
    """A server whose watchdog waits for a second."""
    running_watched.wait_ready(60)
    return running_watched


def test_e4_one_example_that_raises_fails_alone_and_its_batch_is_answered(server, model):
    engine = server.engine()
    rejected = server.settled("gradless_rejected_total", model="fragile", reason="model_failed")
    with Traffic(server, 16) as traffic:
        traffic.wait_for_answers(50)
        answers = [ask(server, RED) for _ in range(10)]
        traffic.wait_for_answers(50)
    assert [answer.status_code for answer in answers] == [500] * 10
    assert {answer.json()["type"] for answer in answers} == {"urn:gradless:problem:model_failed"}
    traffic.assert_all_right(model)
    assert server.settled("gradless_rejected_total", model="fragile", reason="model_failed") == rejected + 10
    assert server.engine() == engine


def test_e4_of_one_request_with_a_bad_example_all_fail_and_of_others_none(server, model):
    with Traffic(server, 4) as traffic:
        traffic.wait_for_answers(20)
        assert ask(server, *[GREY] * 11, RED, *[GREY] * 9).status_code == 500
        assert len(ask(server, *[GREY] * 21).json()["predictions"]) == 21
        traffic.wait_for_answers(20)
    traffic.assert_all_right(model)


def test_e5_out_of_memory_makes_smaller_batches_and_nobody_sees_it(server, fragile, model):
    engine, died = server.engine(), server.metric("gradless_engine_restarts_total", device="cpu")
    assert server.metric("gradless_batch_cap", model="fragile") == 8
    with Traffic(server, 16) as traffic:
        traffic.wait_for_answers(50)
        (fragile / "fragile" / "short of memory").touch()
        wait_for(lambda: server.metric("gradless_batch_cap", model="fragile") == 2, 30, "a learned cap")
        traffic.wait_for_answers(100)
        (fragile / "fragile" / "short of memory").unlink()
        wait_for(lambda: server.metric("gradless_batch_cap", model="fragile") > 2, 60, "a larger cap again")
        traffic.wait_for_answers(50)
    traffic.assert_all_right(model)
    assert server.pids("gradless: engine") == [engine]
    assert server.metric("gradless_engine_restarts_total", device="cpu") == died


def test_e14_a_lost_device_ends_the_engine_and_the_next_one_answers(server, model):
    before = restarts(server, "device-lost")
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(50)
        assert ask(server, BLUE).status_code == 200
        traffic.wait_for_answers(50)
    traffic.assert_all_right(model)
    assert restarts(server, "device-lost") == before + 1


def test_e3_a_stopped_engine_is_replaced_and_its_requests_are_answered(watched, model):
    before = restarts(watched, "watchdog")
    with Traffic(watched, 8) as traffic:
        traffic.wait_for_answers(50)
        os.kill(watched.engine(), signal.SIGSTOP)
        wait_for(lambda: restarts(watched, "watchdog") == before + 1, 30, "the watchdog")
        traffic.wait_for_answers(50)
    traffic.assert_all_right(model)


def test_e3_a_stopped_engine_without_a_request_is_replaced_too(watched):
    before = restarts(watched, "watchdog")
    os.kill(watched.engine(), signal.SIGSTOP)
    wait_for(lambda: restarts(watched, "watchdog") == before + 1, 30, "the watchdog")
    watched.wait_ready()
    assert ask(watched, GREY).status_code == 200


def test_e3_a_forward_that_never_returns_costs_two_engines_and_fails_alone(watched, model):
    before = restarts(watched, "watchdog")
    with Traffic(watched, 8) as traffic:
        traffic.wait_for_answers(50)
        answer = ask(watched, GREEN)
        traffic.wait_for_answers(50)
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:gradless:problem:input_crashes_model")
    assert "watchdog" in answer.json()["detail"]
    traffic.assert_all_right(model)
    assert restarts(watched, "watchdog") == before + 2


def test_e3_a_request_in_an_engine_that_hangs_gets_504_at_its_deadline(server):
    engine = server.engine()
    os.kill(engine, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert ask(server, GREY, **{"X-Timeout-Ms": "700"}).status_code == 504
        assert 0.7 <= time.monotonic() - began < 5
    finally:
        os.kill(engine, signal.SIGCONT)


def test_e2b_three_kills_with_a_lonely_request_aboard_are_not_its_fault(server):
    before = restarts(server, "SIGKILL")
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(ask(server, BROWN)))
    asking.start()
    killed: list[int] = []
    for _ in range(3):
        engine = wait_for(
            lambda: [pid for pid in server.pids("gradless: engine") if pid not in killed], 30, "an engine"
        )[0]
        wait_for(lambda: any(aboard(server)), 30, "the request in a forward")
        os.kill(engine, signal.SIGKILL)
        killed.append(engine)
        wait_for(lambda: restarts(server, "SIGKILL") == before + len(killed), 30, "the death noticed")
    asking.join(60)
    assert [answer.status_code for answer in answers] == [200]
