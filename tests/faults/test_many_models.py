"""Several models in one server: each is ready when it is proven, and one that is wrong costs the others nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import httpx
import pytest

from tests.support.models import TRIVIAL, TRIVIAL_CODE, direct, make_models, photographs
from tests.support.server import Server, started_unready, wait_for
from tests.support.traffic import JPEG

#: A trivial model, of whose forwards in one process no more run than the file `allowed` says; `begun` counts them.
GATED_CODE = """\
import pathlib
import time

from torch import nn

HERE = pathlib.Path(__file__).parent


class Gated(nn.Sequential):
    count = 0

    def forward(self, x):
        Gated.count += 1
        (HERE / "count").write_text(str(Gated.count))
        (HERE / "count").replace(HERE / "begun")
        while Gated.count > int((HERE / "allowed").read_text() or 0):
            time.sleep(0.002)
        return super().forward(x)


def trivial():
    return Gated(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
"""
NO_LIMIT = 1_000_000


def put(models: Path, name: str, code: str = TRIVIAL_CODE, card: str = TRIVIAL) -> Path:
    make_models(models, **{name: card})
    (models / name / "architecture.py").write_text(code)
    return models / name


class Gate:
    """The test's side of a gated model."""

    def __init__(self, models: Path, name: str) -> None:
        self._folder = put(models, name, GATED_CODE)
        self.close()

    def allow(self, forwards: int) -> None:
        fresh = self._folder / "fresh.tmp"
        fresh.write_text(str(forwards))
        fresh.replace(self._folder / "allowed")

    def close(self) -> None:
        """No forward of the next process begins."""
        (self._folder / "begun").write_text("0")
        self.allow(0)

    def begun(self) -> int:
        return int((self._folder / "begun").read_text() or 0)

    def step_until(self, done: Callable[[], object], what: str) -> None:
        """Let one forward after the other through until `done`."""

        def stepped() -> object:
            if not done():
                self.allow(self.begun())
            return done()

        wait_for(stepped, 60, what)


def states(server: Server) -> dict[str, str]:
    return {model["name"]: model["state"] for model in httpx.get(f"{server.url}/models").json()["models"]}


def ask(server: Server, model: str) -> httpx.Response:
    return httpx.post(f"{server.url}/models/{model}/predict", content=photographs()[0], headers=JPEG, timeout=60)


@pytest.fixture
def start():
    """A server that is not ready yet, with an address that is known."""
    with started_unready() as started:
        yield started


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_a_model_that_a_request_waits_for_is_ready_before_those_in_front_of_it(start, tmp_path):
    models = tmp_path / "models"
    gate = Gate(models, "first")
    for name in ("second", "third"):
        put(models, name)
    server = start(models, "--default-model", "first")
    wait_for(lambda: gate.begun() == 1, 60, "the first model's load")
    refused = ask(server, "third")
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:gradless:problem:not_ready")
    assert int(refused.headers["Retry-After"]) >= 1
    gate.step_until(lambda: states(server)["third"] == "ready", "the third model")
    wait_for(lambda: gate.begun() > 1, 30, "the first model's proof")
    assert states(server) == {"first": "loading", "second": "loading", "third": "ready"}
    assert not server.is_ready()
    gate.allow(NO_LIMIT)
    server.wait_ready(60)
    assert [event["model"] for event in server.events("model ready")] == ["third", "first", "second"]
    assert all(event["seconds"] > 0 for event in server.events("model ready"))
    wait_for(lambda: server.events("serving"), 30, "the word that it serves")


def test_a_ready_model_answers_while_another_one_is_being_proven_and_a_kill_meanwhile_loses_no_request(
    start, pool, tmp_path
):
    models = tmp_path / "models"
    put(models, "first")
    gate = Gate(models, "second")
    server = start(models, "--default-model", "first")
    gate.allow(3)
    wait_for(lambda: gate.begun() == 4, 60, "the second model's proof")
    assert states(server) == {"first": "ready", "second": "loading"}
    for _ in range(3):  # one forward of the proof, then the answer
        answer, begun = pool.submit(ask, server, "first"), gate.begun()
        # The request is given time to arrive, and the answer to come back: the proof has not many forwards to spend.
        gate.step_until(lambda answer=answer: wait([answer], 0.5).done, "an answer")
        assert answer.result().status_code == 200
        wait_for(lambda begun=begun: begun < gate.begun(), 30, "the next forward of the proof")
        assert states(server)["second"] == "loading"
    waiting = pool.submit(ask, server, "first")  # the worker is in the second one's forward
    wait_for(lambda: server.metric("gradless_requests_in_flight", model="first") == 1, 30, "the request")
    os.kill(server.engine(), signal.SIGKILL)
    gate.allow(NO_LIMIT)
    assert waiting.result().status_code == 200
    server.wait_ready(60)


def test_after_a_kill_the_models_that_requests_wait_for_are_the_first_to_be_ready_and_every_request_is_answered(
    start, pool, tmp_path
):
    models = tmp_path / "models"
    put(models, "first")
    gate = Gate(models, "second")
    for name in ("third", "fourth"):
        put(models, name)
    gate.allow(NO_LIMIT)
    server = start(models, "--default-model", "first")
    server.wait_ready(60)
    version = direct(models, "third").version
    gate.close()
    engine = server.engine()
    os.kill(engine, signal.SIGKILL)
    wait_for(lambda: states(server)["third"] == "restarting", 30, "the news")
    waiting = pool.submit(ask, server, "third")
    wait_for(lambda: states(server)["first"] == "ready", 60, "the default model")  # so the front end has been heard
    gate.step_until(waiting.done, "an answer")
    assert (waiting.result().status_code, waiting.result().json()["version"]) == (200, version)
    assert states(server)["second"] == "restarting"
    assert not server.is_ready()
    others = [pool.submit(ask, server, name) for name in ("first", "second", "third", "fourth")]
    gate.allow(NO_LIMIT)
    assert [other.result().status_code for other in others] == [200] * 4
    server.wait_ready(60)
    assert server.metric("gradless_engine_restarts_total") == 1
    assert server.metric("gradless_engine_up", device="cpu") == 1


def test_a_model_that_is_not_required_and_whose_card_is_wrong_is_told_and_the_others_serve(serve, tmp_path):
    models = tmp_path / "models"
    put(models, "good")
    wrong = put(models, "wrong", card=f"required = false\n{TRIVIAL}crops = 3\n")
    server = serve(models, "--default-model", "good")
    assert server.is_ready()
    assert states(server) == {"good": "ready", "wrong": "failed"}
    refusal = ask(server, "wrong")
    assert refusal.status_code == 503
    assert "there is no such key; there are" in httpx.get(f"{server.url}/models/wrong").json()["detail"]
    assert any(event["model"] == "wrong" and event["level"] == "error" for event in server.events("model failed"))
    (wrong / "model.toml").write_text(f"required = false\n{TRIVIAL}")
    assert reloaded(server) == ""
    assert ask(server, "wrong").status_code == 200
    (wrong / "model.toml").write_text(f"required = false\n{TRIVIAL}crops = 3\n")
    assert "there is no such key" in reloaded(server)  # it was ready: the old engines serve it on
    assert ask(server, "wrong").status_code == 200


def test_the_only_model_stays_the_default_when_a_second_one_joins(serve, tmp_path):
    models = tmp_path / "models"
    put(models, "zebra")
    server = serve(models)
    put(models, "ant")
    assert reloaded(server) == ""
    answer = httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG)
    assert (answer.status_code, answer.json()["model"]) == (200, "zebra")
    assert states(server) == {"ant": "ready", "zebra": "ready"}


def reloaded(server: Server) -> str:
    """The error that a reload ends with; empty where it succeeds."""
    before = httpx.post(f"{server.url}/models/reload").json()["reloads_ended"]

    def state() -> dict | None:
        found = httpx.get(f"{server.url}/models").json()["reload"]
        return found if found["ended"] > before else None

    return wait_for(state, 60, "the end of the reload")["error"]
