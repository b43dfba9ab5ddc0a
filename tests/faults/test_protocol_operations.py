"""S2, E1 and C1 over every protocol: keys, an engine that dies, a drain; and what is counted and logged of each."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from service.frontend.protocols.spoken import protocols
from tests.support.models import TRIVIAL, make_models, photographs
from tests.support.protocols import (
    HEADER,
    JSON,
    VERTEX,
    Body,
    Tensor,
    ask,
    files,
    instances,
    v2_binary,
    v2_json,
    v2_tensors,
)
from tests.support.server import Server, wait_for

KEY = "sesame-0123456789"
#: A row of numbers above 2, or a white picture, takes so long that whoever looks finds its request in flight.
CODE = """\
import time

from torch import nn


class Slow(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        if bool((x.flatten(1).amin(1) > 2).any()):
            time.sleep(0.5)
        return self.layers(x)


def rows():
    return Slow(nn.Linear(3, 2))


def pictures():
    return Slow(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
"""
ROWS = 'task = "tensor"\nweights = "random:1"\narchitecture = "nets:rows"\n[inputs.x]\nshape = [3]\n'
PICTURES = TRIVIAL.replace("architecture:trivial", "nets:pictures")
IMAGE = {"Content-Type": "application/octet-stream"}


def requests(row: list[float], picture: bytes) -> dict[str, tuple[Body, str, str]]:
    """One request by each way that somebody asks, its protocol's name in the metrics, and the model that it asks."""
    x = Tensor.of("x", np.array([row], np.float32))
    line = Body("/invocations", ",".join(map(str, row)).encode(), {"Content-Type": "text/csv"})
    versioned = v2_json("rows", x)._replace(path="/v2/models/rows/versions/1/infer")
    return {
        "native": (Body("/models/rows/predict", json.dumps({"instances": [row]}).encode(), JSON), "gradless", "rows"),
        "v2 JSON": (v2_json("rows", x), "open_inference", "rows"),
        "v2 binary": (v2_binary("rows", x), "open_inference", "rows"),
        "v2 of a version": (versioned, "open_inference", "rows"),
        "v2 pictures": (v2_binary("pictures", files(picture)), "open_inference", "pictures"),
        "KServe v1": (instances("kserve_v1", "rows", row), "kserve_v1", "rows"),
        "Vertex": (instances("vertex", "rows", row), "vertex", "rows"),
        "SageMaker": (line, "sagemaker", "rows"),
        "Hugging Face": (Body("/hf/pictures", picture, IMAGE), "hugging_face", "pictures"),
    }


def white() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), "white").save(file, "PNG")
    return file.getvalue()


REQUESTS = requests([0.5, 1, 2], photographs()[0])
SLOW = requests([50, 60, 70], white())
#: Reading or listing, though it is a POST.
OPEN_POSTS = {"/v2/repository/index"}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = make_models(tmp_path_factory.mktemp("slow") / "models", rows=ROWS, pictures=PICTURES)
    for folder in root.iterdir():
        (folder / "nets.py").write_text(CODE)
    return root


@pytest.fixture(scope="module")
def guarded(models) -> Iterator[Server]:
    keys = models.parent / "keys"
    keys.write_text(f"{KEY}\n")
    flags = ("--default-model", "rows", "--keys-file", str(keys), "--access-log")
    with Server(models, *flags, environment=VERTEX) as running:
        yield running.started()
        assert running.events("predict failed") == []
        assert running.stop() == 0


@pytest.fixture(scope="module")
def routes(guarded) -> Mapping[str, Mapping[str, dict]]:
    """Every path with its methods, as the server itself documents them; of one model."""
    found = httpx.get(f"{guarded.url}/openapi.json").json()["paths"]
    return {path.replace("{model}", "rows").replace("{version}", "1"): methods for path, methods in found.items()}


def with_key(server: Server, body: Body, **more: str) -> httpx.Response:
    return ask(server, body, Authorization=f"Bearer {KEY}", **more)


def assert_refused_in_its_own_form(path: str, answer: httpx.Response) -> None:
    said = answer.json()
    if path.startswith(("/predict", "/models", "/nothing")):
        assert answer.headers["content-type"] == "application/problem+json"
        assert said["status"] == answer.status_code
        assert said["request_id"] == answer.headers["x-request-id"]
    else:
        assert answer.headers["content-type"] == "application/json"
        assert list(said) == ["error"]
        assert said["error"]


# S2


def test_s2_every_path_of_every_protocol_is_among_the_routes(guarded, routes, monkeypatch):
    for name, value in VERTEX.items():
        monkeypatch.setenv(name, value)
    paths = {path for protocol in protocols() for path in protocol.paths}
    assert "/vertex/predict" in paths
    documented = httpx.get(f"{guarded.url}/openapi.json").json()["paths"]
    assert paths <= documented.keys()


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", f"Basic {KEY}"])
def test_s2_whatever_runs_a_model_or_changes_something_needs_a_key_and_nothing_else_does(
    guarded, routes, authorization
):
    headers = {} if authorization is None else {"Authorization": authorization}
    refused, passed = set(), set()
    for path, methods in routes.items():
        for method in methods:
            answer = httpx.request(method.upper(), guarded.url + path, headers=headers)
            if answer.status_code == 401:
                refused.add(path)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert_refused_in_its_own_form(path, answer)
            else:
                passed.add(path)
                assert answer.status_code in (200, 400), (path, answer.text)
    posts = {path for path, methods in routes.items() if "post" in methods}
    assert refused == posts - OPEN_POSTS
    assert passed == {path for path, methods in routes.items() if "get" in methods} | OPEN_POSTS
    assert refused >= {body.path for body, _, model in REQUESTS.values() if model == "rows"} | {"/hf/rows"}
    assert refused >= {f"/v2/repository/models/rows/{change}" for change in ("load", "unload")}
    assert refused >= {"/models/reload", "/models/rows/reload"}


@pytest.mark.parametrize("kind", REQUESTS)
def test_s2_with_a_key_each_is_answered(guarded, kind):
    body, _, _ = REQUESTS[kind]
    assert with_key(guarded, body).status_code == 200


@pytest.mark.parametrize("change", ["load", "unload"])
def test_s2_models_are_neither_loaded_nor_unloaded_over_v2_even_with_a_key(guarded, change):
    answer = with_key(guarded, Body(f"/v2/repository/models/rows/{change}", b"", {}))
    assert answer.status_code == 403
    assert "/models/reload" in answer.json()["error"]


def test_s2_a_slash_more_or_less_opens_nothing(guarded):
    for body, _, _ in REQUESTS.values():
        for path in (
            f"{body.path}/",
            f"/{body.path}",
            body.path.replace("/", "//"),
            f"{body.path}%2F",
            f"{body.path};",
        ):
            answer = ask(guarded, body._replace(path=path))
            assert answer.status_code in (307, 401, 404, 405), path


# Errors


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("POST", "/v2/nothing", 404),
        ("POST", "/v2/models/none/infer", 404),
        ("POST", "/v2/models/rows/versions/7/infer", 404),
        ("GET", "/v2/models/none", 404),
        ("GET", "/v2/models/none/ready", 404),
        ("GET", "/v2/models/rows/versions/7", 404),
        ("GET", "/v2/models/none/config", 404),
        ("GET", "/v2/models/none/stats", 404),
        ("GET", "/v2/models/rows/infer", 405),
        ("PUT", "/v2/models/rows/infer", 405),
        ("DELETE", "/v2", 405),
        ("POST", "/v2/health/ready", 405),
        ("GET", "/v2/repository/index", 405),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/models/none", 404),
        ("POST", "/v1/models/none:predict", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/vertex/predict", 405),
        ("GET", "/invocations", 405),
        ("POST", "/ping", 405),
        ("GET", "/hf/pictures", 405),
        ("POST", "/hf/none", 404),
        ("GET", "/nothing", 404),
        ("GET", "/predict", 405),
    ],
)
def test_a_path_or_a_method_that_does_not_exist_is_told_in_the_form_of_the_protocol(guarded, method, path, status):
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "mine-1"}
    answer = httpx.request(method, guarded.url + path, headers=headers)
    assert answer.status_code == status
    assert answer.headers["x-request-id"] == "mine-1"
    assert_refused_in_its_own_form(path, answer)
    if status == 405:
        assert answer.headers["allow"]


# Counts and log


def counted(server: Server) -> dict[tuple[str, str, str], float]:
    """Requests by model, protocol and status, of those that have been counted."""
    server.settled("gradless_requests_total")
    text, found = metrics(server), {}
    for model in ("rows", "pictures"):
        for protocol in {protocol for _, protocol, _ in REQUESTS.values()}:
            for status in ("200", "400", "401", "422"):
                labels = {"model": model, "protocol": protocol, "status": status}
                found[model, protocol, status] = sum(server.samples(text, "gradless_requests_total", labels))
    return found


def test_each_protocol_is_counted_by_its_status(guarded):
    before = counted(guarded)
    expected = dict(before)
    with ThreadPoolExecutor(len(REQUESTS)) as threads:
        answers = list(threads.map(lambda each: with_key(guarded, each[0]), REQUESTS.values()))
    for answer, (body, protocol, model) in zip(answers, REQUESTS.values(), strict=True):
        assert answer.status_code == 200
        expected[model, protocol, "200"] += 1
        assert ask(guarded, body).status_code == 401
        expected[model, protocol, "401"] += 1
        # A length of its JSON that is no number is a fault of v2 alone.
        broken = body._replace(content=b"{", headers=JSON if protocol != "open_inference" else {HEADER: "x"})
        status = with_key(guarded, broken).status_code
        assert status == 400
        expected[model, protocol, "400"] += 1
    assert counted(guarded) == expected


def test_a_refusal_that_is_400_over_v2_alone_is_counted_as_that(guarded):
    before = counted(guarded)
    assert with_key(guarded, v2_json("rows")).status_code == 400
    assert with_key(guarded, instances("kserve_v1", "rows")).status_code == 422
    after = counted(guarded)
    assert after["rows", "open_inference", "400"] == before["rows", "open_inference", "400"] + 1
    assert after["rows", "kserve_v1", "422"] == before["rows", "kserve_v1", "422"] + 1


@pytest.mark.parametrize("kind", REQUESTS)
def test_the_id_of_a_request_comes_back_and_stands_in_the_access_log_with_its_path_and_status(guarded, kind):
    body, _, _ = REQUESTS[kind]
    for sent, status in ((with_key, 200), (ask, 401)):
        own = f"{kind.replace(' ', '-')}-{status}"
        answer = sent(guarded, body, X_Request_Id=own)
        assert answer.status_code == status
        assert answer.headers["x-request-id"] == own

        def logged(own: str = own) -> list[dict]:
            return [line for line in guarded.events("request") if line["request_id"] == own]

        (line,) = wait_for(logged, 5, "a line of the access log")
        assert (line["method"], line["path"], line["status"]) == ("POST", body.path, status)
    assert KEY not in "".join(guarded.log)


def test_statistics_count_what_was_answered(guarded):
    def stats() -> dict:
        (found,) = httpx.get(f"{guarded.url}/v2/models/rows/stats").json()["model_stats"]
        return found

    before = stats()
    two = Tensor("x", "FP32", [2, 3], [0.5, 1, 2, 3, 4, 5])
    assert with_key(guarded, v2_json("rows", two)).status_code == 200
    assert with_key(guarded, v2_json("rows")).status_code == 400
    guarded.settled("gradless_batch_size_sum", model="rows")
    after = stats()
    assert after["inference_count"] == before["inference_count"] + 2
    assert after["execution_count"] == before["execution_count"] + 1
    succeeded, failed = (
        after["inference_stats"][which]["count"] - before["inference_stats"][which]["count"]
        for which in ("success", "fail")
    )
    assert (succeeded, failed) == (1, 1)
    for stage in ("compute_input", "compute_infer", "compute_output", "success"):
        assert after["inference_stats"][stage]["ns"] > before["inference_stats"][stage]["ns"], stage


# E1 and C1


def all_in_flight(server: Server, threads: ThreadPoolExecutor) -> list:
    """Ask by every protocol at once, and wait until each request is with an engine."""
    sent = [threads.submit(with_key, server, body) for body, _, _ in SLOW.values()]
    wait_for(
        lambda: sum(server.samples(metrics(server), "gradless_requests_in_flight", {})) == len(sent) or None,
        10,
        "all in flight",
    )
    return sent


def metrics(server: Server) -> str:
    return httpx.get(f"{server.operations}/metrics", timeout=30).text


def numbers(kind: str, answer: httpx.Response) -> list[float]:
    """The numbers with a point of an answer, in order."""
    assert answer.status_code == 200, answer.text
    if kind.startswith("v2"):
        return [
            float(number) for array in v2_tensors(answer).values() if array.dtype.kind == "f" for number in array[0]
        ]
    return list(floats(answer.json()))


def floats(content: object) -> Iterator[float]:
    if isinstance(content, float):
        yield content
    elif isinstance(content, list | dict):
        for each in content.values() if isinstance(content, dict) else content:
            yield from floats(each)


def test_e1_a_kill_of_the_engine_loses_no_request_of_any_protocol(guarded):
    with ThreadPoolExecutor(len(SLOW)) as threads:
        answers = threads.map(lambda each: with_key(guarded, each[0]), SLOW.values())
        before = {kind: numbers(kind, answer) for kind, answer in zip(SLOW, answers, strict=True)}
    replayed = guarded.settled("gradless_replayed_requests_total")
    engine = guarded.engine()
    with ThreadPoolExecutor(len(SLOW)) as threads:
        sent = all_in_flight(guarded, threads)
        os.kill(engine, signal.SIGKILL)
        after = {kind: numbers(kind, each.result(60)) for kind, each in zip(SLOW, sent, strict=True)}
    for kind, found in after.items():
        assert len(found) >= 2
        assert found == pytest.approx(before[kind], abs=1e-6), kind
    assert guarded.settled("gradless_replayed_requests_total") == replayed + len(SLOW)
    wait_for(lambda: guarded.pids("gradless: engine") not in ([], [engine]), 30, "a new engine")
    wait_for(guarded.is_ready, 30, "ready")


def test_c1_sigterm_during_slow_requests_answers_those_of_every_protocol(serve, models):
    server = serve(models, "--default-model", "rows", "--drain-delay-seconds", "0", environment=VERTEX)
    with ThreadPoolExecutor(len(SLOW)) as threads:
        sent = all_in_flight(server, threads)
        server.process.terminate()
        answers = {kind: each.result(60) for kind, each in zip(SLOW, sent, strict=True)}
    for kind, answer in answers.items():
        assert numbers(kind, answer), kind
        assert answer.headers["connection"] == "close"
    assert server.process.wait(30) == 0
