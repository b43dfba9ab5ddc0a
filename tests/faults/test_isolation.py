"""Rows E2b, E3, E4, E5, E13 and E14 of the fault matrix: one bad example, a batch too large, an engine that hangs."""

from __future__ import annotations

import os
import signal
import threading
import time

import httpx
import pytest

from tests.support.coloured import ask, fragile_code, make_coloured, restarts
from tests.support.memory import aboard
from tests.support.models import direct
from tests.support.server import wait_for
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


@pytest.fixture
def fragile(tmp_path):
    return make_coloured(tmp_path / "models", "fragile", fragile_code(FORWARD))


def test_e4_one_example_that_raises_fails_alone_and_its_batch_is_answered(serve, fragile):
    model = direct(fragile, "fragile")
    server = serve(fragile)
    engine = server.engine()
    with Traffic(server, 16) as traffic:
        traffic.wait_for_answers(100)
        answers = [ask(server, RED) for _ in range(10)]
        traffic.wait_for_answers(50)
    assert [answer.status_code for answer in answers] == [500] * 10
    assert {answer.json()["type"] for answer in answers} == {"urn:gradless:problem:model_failed"}
    traffic.assert_all_right(model)
    assert server.metric("gradless_rejected_total", model="fragile", reason="model_failed") == 10
    assert server.engine() == engine


def test_e4_of_one_request_with_a_bad_example_all_fail_and_of_others_none(serve, fragile):
    model = direct(fragile, "fragile")
    server = serve(fragile)
    with Traffic(server, 4) as traffic:
        traffic.wait_for_answers(20)
        assert ask(server, *[GREY] * 11, RED, *[GREY] * 9).status_code == 500
        assert len(ask(server, *[GREY] * 21).json()["predictions"]) == 21
        traffic.wait_for_answers(20)
    traffic.assert_all_right(model)


def test_e5_out_of_memory_makes_smaller_batches_and_nobody_sees_it(serve, fragile):
    model = direct(fragile, "fragile")
    server = serve(fragile)
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
    assert len(server.pids("gradless: engine")) == 1
    assert server.metric("gradless_engine_restarts_total", device="cpu") == 0


def test_e14_a_lost_device_ends_the_engine_and_the_next_one_answers(serve, fragile):
    model = direct(fragile, "fragile")
    server = serve(fragile)
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(50)
        assert ask(server, BLUE).status_code == 200
        traffic.wait_for_answers(50)
    traffic.assert_all_right(model)
    assert restarts(server, "device-lost") == 1


def test_e3_a_stopped_engine_is_replaced_and_its_requests_are_answered(serve, fragile):
    model = direct(fragile, "fragile")
    server = serve(fragile, "--watchdog-seconds", "1")
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(50)
        os.kill(server.engine(), signal.SIGSTOP)
        wait_for(lambda: restarts(server, "watchdog") == 1, 10, "the watchdog")
        traffic.wait_for_answers(50)
    traffic.assert_all_right(model)


def test_e3_a_stopped_engine_without_a_request_is_replaced_too(serve, fragile):
    server = serve(fragile, "--watchdog-seconds", "1")
    os.kill(server.engine(), signal.SIGSTOP)
    wait_for(lambda: restarts(server, "watchdog") == 1, 10, "the watchdog")
    server.wait_ready()
    assert ask(server, GREY).status_code == 200


def test_e3_a_forward_that_never_returns_costs_two_engines_and_fails_alone(serve, fragile):
    model = direct(fragile, "fragile")
    server = serve(fragile, "--watchdog-seconds", "1")
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(50)
        answer = ask(server, GREEN)
        traffic.wait_for_answers(50)
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:gradless:problem:input_crashes_model")
    assert "watchdog" in answer.json()["detail"]
    traffic.assert_all_right(model)
    assert restarts(server, "watchdog") == 2


def test_e3_a_request_in_an_engine_that_hangs_gets_504_at_its_deadline(serve, fragile):
    server = serve(fragile, "--watchdog-seconds", "60")
    os.kill(server.engine(), signal.SIGSTOP)
    began = time.monotonic()
    assert ask(server, GREY, **{"X-Timeout-Ms": "700"}).status_code == 504
    assert 0.7 <= time.monotonic() - began < 5


def test_e2b_three_kills_with_a_lonely_request_aboard_are_not_its_fault(serve, fragile):
    server = serve(fragile)
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
        wait_for(lambda: restarts(server, "SIGKILL") == len(killed), 10, "the death noticed")
    asking.join(60)
    assert [answer.status_code for answer in answers] == [200]
