"""Health, the models, the metrics and the pages."""

from __future__ import annotations

import json
import subprocess
import time
from shutil import which

import httpx
import pytest
import torch

from service.frontend.accounts import SETTLE_SECONDS
from service.loader.proof import JUDGES
from tests.support.models import SMALL, make_models, photographs
from tests.support.server import Server, wait_for

JPEG = {"Content-Type": "image/jpeg"}


def test_health_says_live_and_ready(server):
    assert httpx.get(f"{server.url}/health/live").json() == {"status": "live"}
    assert httpx.get(f"{server.url}/health/ready").json() == {"status": "ready", "reasons": []}


def test_the_root_leads_a_browser_to_the_docs_and_says_to_others_that_it_is_alive(server):
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    answer = httpx.get(server.url, headers=browser, follow_redirects=True)
    assert answer.url.path == "/docs"
    assert httpx.get(server.url, headers={"Accept": ""}).status_code == 307
    assert httpx.get(server.url).json() == {"status": "alive"}
    assert "swagger" in answer.text.lower()


def test_the_docs_load_nothing_from_elsewhere(server):
    page = httpx.get(f"{server.url}/docs").text
    assert "https://" not in page
    assert "http://" not in page


def test_the_worked_examples_of_the_docs_work(server):
    schema = httpx.get(f"{server.url}/openapi.json").json()
    examples = schema["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert len(examples) >= 2
    for example in examples.values():
        answer = httpx.post(f"{server.url}/predict", json=example["value"])
        assert answer.status_code == 200, answer.text


def test_models_tell_what_is_served(server):
    listed = httpx.get(f"{server.url}/models").json()["models"]
    assert [(m["name"], m["state"]) for m in listed] == [("one", "ready"), ("two", "ready")]
    shown = httpx.get(f"{server.url}/models/one").json()
    assert shown["version"] == listed[0]["version"]
    assert shown["batch_sizes"] == [1, 2, 4, 8]
    assert shown["memory_format"] in ("contiguous_format", "channels_last")
    assert shown["memory_bytes"]["parameters"] > 40_000_000


def test_the_proof_of_a_served_model_passed_by_name(server):
    proof = httpx.get(f"{server.url}/models/one/proof").json()
    assert proof["passed"] is True
    assert [rule["rule"] for rule in proof["rules"]] == list(JUDGES)
    assert proof["version"] == httpx.get(f"{server.url}/models/one").json()["version"]
    assert proof["figures"]["sizes"] == [1, 2, 4, 8]
    assert proof["figures"]["saved_bytes"] == 0


def test_a_proven_model_is_told_in_the_metrics(server):
    assert server.metric("gradless_self_check_passed", model="one") == 1
    assert server.metric("gradless_seal_intact", model="one") == 1
    assert server.metric("gradless_grad_graph_violations_total", model="one") == 0


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A server of two models, of which one cannot be served, that logs each request."""
    wrong = SMALL.format(seed=1).replace("random:1", "file:weights.pth")
    models = make_models(tmp_path_factory.mktemp("half") / "models", good=SMALL.format(seed=3), wrong=wrong)
    torch.save({"fc.weight": torch.zeros(3, 3)}, models / "wrong" / "weights.pth")
    with Server(models, "--default-model", "good", "--access-log") as running:
        yield running.started()


def test_a_model_that_cannot_be_served_makes_the_server_unready_and_the_others_answer(half):
    ready = httpx.get(f"{half.url}/health/ready")
    assert ready.status_code == 503
    assert "wrong" in ready.json()["reasons"][0]
    assert httpx.get(f"{half.url}/health/live").status_code == 200
    assert httpx.post(f"{half.url}/predict", content=photographs()[0], headers=JPEG).status_code == 200
    refused = httpx.post(f"{half.url}/models/wrong/predict", content=photographs()[0], headers=JPEG)
    assert refused.status_code == 503
    assert "fc.weight" in refused.json()["detail"]


def test_promtool_finds_nothing_wrong_with_the_metrics(server):
    if which("promtool") is None:
        pytest.fail("promtool is missing; make test installs it (Debian package prometheus)")
    httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG)
    text = httpx.get(f"{server.url}/metrics").text
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_requests_are_counted_once_over_several_front_ends(server):
    name, labels = "gradless_requests_total", {"model": "two", "protocol": "gradless", "status": "200"}
    before = server.settled(name, **labels)
    for _ in range(20):  # a connection each, so that both front ends get some
        assert httpx.post(f"{server.url}/models/two/predict", content=photographs()[0], headers=JPEG).status_code == 200
    wait_for(lambda: server.metric(name, **labels) >= before + 20, 10, "20 more requests")
    assert server.settled(name, **labels) == before + 20


def test_the_access_log_has_a_line_a_request_and_no_query(half):
    httpx.post(f"{half.url}/predict?top_k=3&key=secret", content=b"", headers=JPEG | {"X-Request-Id": "mine-2"})
    lines = wait_for(lambda: [json.loads(line) for line in half.log if "mine-2" in line], 30, "a line in the log")
    (line,) = lines
    assert (line["event"], line["method"], line["path"], line["status"]) == ("request", "POST", "/predict", 422)
    assert line["milliseconds"] > 0
    assert "secret" not in "".join(half.log)


def settled(server, wanted):
    """The same as `Server.settled`, of several metrics with their labels at once."""

    def now() -> list[float]:
        text = httpx.get(f"{server.operations}/metrics", timeout=30).text
        return [sum(Server.samples(text, name, labels)) for name, labels in wanted]

    seen, since = now(), time.monotonic()

    def rested() -> bool:
        nonlocal seen, since
        if (read := now()) != seen:
            seen, since = read, time.monotonic()
        return time.monotonic() - since > 4 * SETTLE_SECONDS

    wait_for(rested, 30, "metrics at rest")
    return seen


STAGES = ("decode", "queue", "collate", "forward", "postprocess")
MOVED_BY_ONE_REQUEST = [
    ("gradless_requests_total", {"model": "one", "protocol": "gradless", "status": "200"}),
    ("gradless_request_duration_seconds_count", {"model": "one"}),
    ("gradless_batch_size_count", {"model": "one"}),
    ("gradless_batch_size_sum", {"model": "one"}),
    *(("gradless_stage_duration_seconds_count", {"model": "one", "stage": stage}) for stage in STAGES),
]


def test_one_request_moves_each_metric_and_each_stage_by_one(server):
    before = settled(server, MOVED_BY_ONE_REQUEST)
    assert httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG).status_code == 200
    for (name, labels), value in zip(MOVED_BY_ONE_REQUEST, before, strict=True):
        wait_for(lambda: server.metric(name, **labels) > value, 30, f"{name}{labels} to move")  # noqa: B023
    assert settled(server, MOVED_BY_ONE_REQUEST) == [value + 1 for value in before]


def test_a_refusal_is_counted_by_its_reason(server):
    refused = [
        ("/predict", b"no picture", {"model": "one", "reason": "unprocessable"}),
        ("/models/none/predict", b"x", {"model": "unknown", "reason": "model_not_found"}),
    ]
    counters = [("gradless_rejected_total", labels) for _, _, labels in refused]
    before = settled(server, counters)
    for path, body, _ in refused:
        httpx.post(server.url + path, content=body, headers=JPEG)
    for (name, labels), value in zip(counters, before, strict=True):
        wait_for(lambda: server.metric(name, **labels) > value, 30, f"a refusal more: {labels}")  # noqa: B023
    assert settled(server, counters) == [value + 1 for value in before]


def test_gauges_tell_the_state(server):
    assert server.metric("gradless_engine_up", device="cpu") == 1
    assert server.metric("gradless_self_check_passed", model="one") == 1
    assert server.metric("gradless_model_memory_bytes", model="one", kind="parameters") > 40_000_000
    assert server.metric("gradless_process_memory_bytes", role="engine", kind="rss") > 100_000_000
    assert server.metric("gradless_process_memory_bytes", role="front-end", kind="pss") > 10_000_000
    assert server.settled("gradless_requests_in_flight", model="one") == 0
    assert server.metric("gradless_queue_depth", model="one") == 0
    assert server.metric("gradless_model_info", model="one", device="cpu") == 1
    assert server.metric("gradless_build_info") == 1
