"""Health, the models, the metrics and the pages."""

from __future__ import annotations

import json
import subprocess
from shutil import which

import httpx
import pytest

from service.loader.proof import JUDGES
from tests.support.models import SMALL, make_models, photographs
from tests.support.server import wait_for

JPEG = {"Content-Type": "image/jpeg"}


def test_health_says_live_and_ready(server):
    assert httpx.get(f"{server.url}/health/live").json() == {"status": "live"}
    assert httpx.get(f"{server.url}/health/ready").json() == {"status": "ready", "reasons": []}


def test_the_root_leads_to_the_docs(server):
    answer = httpx.get(server.url, follow_redirects=True)
    assert answer.url.path == "/docs"
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


def test_a_model_that_cannot_be_served_makes_the_server_unready_and_the_others_answer(serve, tmp_path):
    wrong = SMALL.format(seed=1).replace("random:1", "file:weights.pth")
    models = make_models(tmp_path / "models", good=SMALL.format(seed=3), wrong=wrong)
    import torch

    torch.save({"fc.weight": torch.zeros(3, 3)}, models / "wrong" / "weights.pth")
    server = serve(models, "--default-model", "good")
    ready = httpx.get(f"{server.url}/health/ready")
    assert ready.status_code == 503
    assert "wrong" in ready.json()["reasons"][0]
    assert httpx.get(f"{server.url}/health/live").status_code == 200
    assert httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG).status_code == 200
    refused = httpx.post(f"{server.url}/models/wrong/predict", content=photographs()[0], headers=JPEG)
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


def test_the_access_log_has_a_line_a_request_and_no_query(serve, two_models):
    server = serve(two_models, "--default-model", "one", "--access-log")
    httpx.post(f"{server.url}/predict?top_k=3&key=secret", content=b"", headers=JPEG | {"X-Request-Id": "mine-2"})
    lines = wait_for(lambda: [json.loads(line) for line in server.log if "mine-2" in line], 10, "a line in the log")
    (line,) = lines
    assert (line["event"], line["method"], line["path"], line["status"]) == ("request", "POST", "/predict", 422)
    assert line["milliseconds"] > 0
    assert "secret" not in "".join(server.log)


MOVED_BY_ONE_REQUEST = {
    "gradless_requests_total": {"model": "one", "protocol": "gradless", "status": "200"},
    "gradless_request_duration_seconds_count": {"model": "one"},
    "gradless_batch_size_count": {"model": "one"},
    "gradless_batch_size_sum": {"model": "one"},
}


@pytest.mark.parametrize("name", MOVED_BY_ONE_REQUEST)
def test_one_request_moves_the_metric_by_one(server, name):
    before = server.settled(name, **MOVED_BY_ONE_REQUEST[name])
    assert httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG).status_code == 200
    wait_for(lambda: server.metric(name, **MOVED_BY_ONE_REQUEST[name]) > before, 10, f"{name} to move")
    assert server.settled(name, **MOVED_BY_ONE_REQUEST[name]) == before + 1


@pytest.mark.parametrize("stage", ["decode", "queue", "collate", "forward", "postprocess"])
def test_one_request_is_seen_in_each_stage(server, stage):
    name = "gradless_stage_duration_seconds_count"
    before = server.settled(name, model="one", stage=stage)
    assert httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG).status_code == 200
    wait_for(lambda: server.metric(name, model="one", stage=stage) > before, 10, f"{stage} to move")
    assert server.settled(name, model="one", stage=stage) == before + 1


@pytest.mark.parametrize(
    ("path", "body", "labels"),
    [
        ("/predict", b"no picture", {"model": "one", "reason": "unprocessable"}),
        ("/models/none/predict", b"x", {"model": "unknown", "reason": "model_not_found"}),
    ],
)
def test_a_refusal_is_counted_by_its_reason(server, path, body, labels):
    before = server.settled("gradless_rejected_total", **labels)
    httpx.post(server.url + path, content=body, headers=JPEG)
    wait_for(lambda: server.metric("gradless_rejected_total", **labels) > before, 10, "a refusal more")
    assert server.settled("gradless_rejected_total", **labels) == before + 1


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
