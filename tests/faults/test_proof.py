"""Rows E8, E9 and E10 of the fault matrix, and waivers: what is not proven is not served; what stops being so, ends."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.coloured import CARD, ask, make_coloured, restarts
from tests.support.models import Direct, direct, make_models, photographs
from tests.support.server import Server, wait_for
from tests.support.traffic import JPEG, Traffic

CODE = """\
import os
import pathlib
import sys

import torch
from torch import nn

if "NO_REST" in os.environ:  # an engine's
    seal_watch = sys.modules["service.engine.seal_watch"]
    assert seal_watch.REST_SECONDS
    seal_watch.REST_SECONDS = 0.2


class Turncoat(nn.Module):
    '''What a picture of one colour makes it do is in the tests.'''

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(8)
        self.last = nn.Linear(48, 10)

    def forward(self, x):
        colours = [tuple(int(value) for value in pixel) for pixel in x[:, :, 0, 0]]
        scores = self.last(torch.flatten(self.pool(x), 1))
        if (255, 0, 0) in colours:
            self.last.weight.add_(1)
        if (0, 255, 0) in colours:
            self.last.weight.data.add_(1)
        if (0, 0, 255) in colours:
            pathlib.Path(__file__).with_name("address").write_text(str(self.last.weight.data_ptr()))
        if (255, 255, 0) in colours:
            with torch.inference_mode(False):
                return scores.clone().requires_grad_(True)
        if (0, 255, 255) in colours:
            self.left = torch.inference_mode(False)
            self.left.__enter__()
        return scores


def turncoat():
    return Turncoat()
"""
RED, GREEN, BLUE, YELLOW, CYAN = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)


@pytest.fixture(scope="module")
def turncoat(tmp_path_factory) -> Path:
    return make_coloured(tmp_path_factory.mktemp("turncoat") / "models", "turncoat", CODE)


@pytest.fixture(scope="module")
def model(turncoat) -> Direct:
    return direct(turncoat, "turncoat")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> dict[str, str]:
    """The environment of servers that share one."""
    return {"GRADLESS_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def first(turncoat, cache) -> Iterator[tuple[Server, dict]]:
    """A server that hashes its weights all the time, and the proof of its first engine."""
    with Server(turncoat, environment=cache | {"NO_REST": "1"}) as server:
        server.started()
        yield server, httpx.get(f"{server.url}/models/turncoat/proof").json()


@pytest.fixture
def server(first) -> Server:
    first[0].wait_ready(60)
    return first[0]


def test_e8_a_write_in_place_is_caught_within_its_batch_and_nobody_is_answered_by_it(server, model):
    before = restarts(server, "seal-broken")
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(50)
        answer = ask(server, RED)
        traffic.wait_for_answers(50)
    assert answer.status_code == 500  # it does so each time, the second time alone
    assert answer.json()["type"].endswith("input_crashes_model")
    traffic.assert_all_right(model)
    assert restarts(server, "seal-broken") == before + 2
    server.wait_ready()
    assert server.metric("gradless_seal_intact", model="turncoat") == 1


def test_e8_a_write_through_data_is_found_by_the_hash_and_the_weights_come_from_disk_again(server, model):
    engine, before = server.engine(), restarts(server, "seal-broken")
    told = [event["cause"] for event in server.events("engine died")]
    assert ask(server, GREEN).status_code == 200
    wait_for(lambda: restarts(server, "seal-broken") == before + 1, 60, "the broken seal noticed")
    wait_for(lambda: server.pids("gradless: engine") not in ([], [engine]), 30, "a new engine")
    server.wait_ready()
    with Traffic(server, 4) as traffic:
        traffic.wait_for_answers(50)
    traffic.assert_all_right(model)
    assert [event["cause"] for event in server.events("engine died")] == [*told, "seal-broken"]


def test_e8_a_bit_flipped_from_outside_is_found_by_the_hash(server, turncoat, model):
    engine, before = server.engine(), restarts(server, "seal-broken")
    assert ask(server, BLUE).status_code == 200
    address = int((turncoat / "turncoat" / "address").read_text())
    try:
        with Path(f"/proc/{engine}/mem").open("r+b", buffering=0) as memory:
            memory.seek(address + 3)
            byte = memory.read(1)[0]
            memory.seek(address + 3)
            memory.write(bytes([byte ^ 0x40]))
    except PermissionError:
        pytest.skip("this system lets nobody write to another process's memory")
    wait_for(lambda: restarts(server, "seal-broken") == before + 1, 60, "the flipped bit noticed")
    server.wait_ready()
    with Traffic(server, 4) as traffic:
        traffic.wait_for_answers(50)
    traffic.assert_all_right(model)


@pytest.mark.parametrize("colour", [YELLOW, CYAN], ids=["a graph", "inference mode left off"])
def test_a_violation_while_serving_is_answered_by_no_model_that_was_caught(server, model, colour):
    before = restarts(server, "violation")
    violations = server.metric("gradless_grad_graph_violations_total", model="turncoat")
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(50)
        answer = ask(server, colour)
        traffic.wait_for_answers(50)
    assert answer.status_code == 500
    traffic.assert_all_right(model)
    assert restarts(server, "violation") == before + 2
    assert server.metric("gradless_grad_graph_violations_total", model="turncoat") == violations + 2


#: What E9 and E10 put in forward, the rules that it breaks, and the words that say so.
REFUSED = {
    "left in train mode": ("self.train()", {"eval"}, "forward put the model itself in train mode"),
    "unfrozen": ("self.last.requires_grad_(True)", {"frozen"}, "forward unfroze last.weight"),
    "inference mode left": (
        "with torch.inference_mode(False):\n            torch.ones(1) + 1",
        {"inference-mode"},
        "Inference mode was off at the operator aten.ones.default",
    ),
    "counts calls": ("self.calls += 1", {"nothing-changed"}, "calls was changed by forward"),
    "keeps what it saw": ("self.seen, x = x.mean(), x + self.seen", {"repeatable"}, "gave different outputs"),
    "dropout": ("x = torch.dropout(x, 0.5, True)", {"repeatable"}, "gave different outputs"),
    "the batch's mean": ("x = x - x.mean(0, keepdim=True)", {"batch-invariant"}, "alone and in company"),
}
FAULTY = """\
import torch
from torch import nn


class Faulty(nn.Module):
    seen = 0.0

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(8)
        self.last = nn.Linear(48, 10)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        {line}
        return self.last(torch.flatten(self.pool(x), 1))


def faulty():
    return Faulty()
"""
FAULTY_CARD = CARD.format(name="faulty").replace("random:1", "file:weights.pth")


def faulty_model(root, line: str, card: str = FAULTY_CARD, name: str = "faulty"):
    """A folder with the model whose forward has this line; weights in a file, since `random:` runs a forward itself."""
    import torch

    models = make_models(root, **{name: card})
    (models / name / "architecture.py").write_text(FAULTY.format(line=line))
    generator = torch.Generator().manual_seed(5)
    state = {"last.weight": torch.randn(10, 48, generator=generator) / 7, "last.bias": torch.zeros(10)}
    torch.save(state | {"calls": torch.zeros(1)}, models / name / "weights.pth")
    return models


def name_of(fault: str) -> str:
    return re.sub(r"\W", "-", fault)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory) -> Iterator[Server]:
    """A server of a good model, and of one with each of these faults."""
    models = tmp_path_factory.mktemp("refusing") / "models"
    make_coloured(models, "good", CODE.replace("def turncoat", "def good"))
    for fault, (line, _, _) in REFUSED.items():
        faulty_model(models, line, name=name_of(fault))
    with Server(models, "--default-model", "good") as server:
        yield server.started()


@pytest.mark.parametrize("fault", REFUSED)
def test_e9_e10_what_breaks_a_rule_is_not_served_and_the_others_are(refusing, fault):
    _, rules, words = REFUSED[fault]
    server, name = refusing, name_of(fault)
    proof = httpx.get(f"{server.url}/models/{name}/proof").json()
    assert proof["passed"] is False
    assert {rule["rule"] for rule in proof["rules"] if not rule["passed"]} == rules
    ready = httpx.get(f"{server.url}/health/ready")
    assert ready.status_code == 503
    [reason] = [reason for reason in ready.json()["reasons"] if reason.startswith(f"{name}:")]
    assert words in reason
    refused = httpx.post(f"{server.url}/models/{name}/predict", content=photographs()[0], headers=JPEG)
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:gradless:problem:not_ready")
    assert httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG).status_code == 200
    assert server.metric("gradless_self_check_passed", model=name) == 0


def test_a_model_that_is_not_batch_invariant_is_served_one_by_one_when_its_card_says_why(serve, tmp_path):
    card = FAULTY_CARD + '[proof]\nwaive = { batch-invariant = "centres the batch" }\n'
    line = "x = x - x.mean(0, keepdim=True) / 2"
    models = faulty_model(tmp_path / "models", line, card)
    model = direct(models, "faulty")
    server = serve(models)
    assert httpx.get(f"{server.url}/models/faulty").json()["batch_sizes"] == [1]
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(100)
    traffic.assert_all_right(model)  # as if each had been alone
    rules = httpx.get(f"{server.url}/models/faulty/proof").json()["rules"]
    assert {rule["rule"]: rule["waived"] for rule in rules if rule["waived"]} == {
        "batch-invariant": "centres the batch"
    }
    assert server.metric("gradless_rule_waived", model="faulty", rule="batch-invariant") == 1
    assert any('"waivers": {"faulty": {"batch-invariant": "centres the batch"}}' in line for line in server.log)


def test_a_model_that_is_not_repeatable_is_not_asked_twice_when_its_engine_dies(serve, tmp_path):
    card = FAULTY_CARD + '[proof]\nwaive = { repeatable = "Monte Carlo dropout" }\n'
    server = serve(faulty_model(tmp_path / "models", "x = torch.dropout(x, 0.5, True)", card))
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(50)
        engine = server.engine()
        os.kill(engine, signal.SIGSTOP)  # with requests in it
        waiting = len(traffic.answers)
        wait_for(
            lambda: server.metric("gradless_requests_in_flight", model="faulty") >= 8, 10, "requests in the engine"
        )
        os.kill(engine, signal.SIGKILL)
        wait_for(lambda: len(traffic.answers) >= waiting + 8, 30, "their answers")
        server.wait_ready()
        traffic.wait_for_answers(20)
    assert traffic.errors == []
    statuses = [seen.response.status_code for seen in traffic.answers]
    refused = [seen.response for seen in traffic.answers if seen.response.status_code != 200]
    assert set(statuses) == {200, 503}
    assert {answer.json()["type"] for answer in refused} == {"urn:gradless:problem:not_replayed"}
    assert all("Retry-After" in answer.headers for answer in refused)
    assert server.metric("gradless_replayed_requests_total", model="faulty") == 0
    assert statuses[-1] == 200


def test_a_restart_rests_on_the_full_proof_that_was_kept(serve, first, turncoat, cache):
    whole = first[1]
    second = serve(turncoat, environment=cache)
    again = httpx.get(f"{second.url}/models/turncoat/proof").json()
    assert (whole["figures"]["sizes"], whole["full"]) == ([1, 2, 4, 8], None)
    assert (again["figures"]["sizes"], again["figures"]["forwards"]) == ([1, 8], 8)
    assert again["full"] == whole["figures"]
    assert again["passed"]
