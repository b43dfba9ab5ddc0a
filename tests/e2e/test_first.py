"""POST /predict behind a proxy's prefix, from another origin, and when there is a bug."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from service.frontend.first import PredictFirst
from service.frontend.protocols.native import Native
from tests.support.models import make_trivial, photographs
from tests.support.server import Server
from tests.support.traffic import JPEG

ORIGIN = "https://page.example"


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    models = make_trivial(tmp_path_factory.mktemp("behind") / "models")
    with Server(models, "--root-path", "/p", "--cors-origins", ORIGIN) as server:
        yield server.started()


@pytest.mark.parametrize("path", ["/predict", "/p/predict", "/models/trivial/predict", "/p/models/trivial/predict"])
def test_the_prefix_may_have_been_taken_away_or_not(behind, path):
    answer = httpx.post(behind.url + path, content=photographs()[0], headers=JPEG)
    assert answer.status_code == 200
    assert answer.json()["model"] == "trivial"


@pytest.mark.parametrize("path", ["/p/p/predict", "/ppredict", "/models/a/b/predict", "/models//predict", "/predict/"])
def test_what_is_no_such_path_is_404(behind, path):
    answer = httpx.post(behind.url + path, content=photographs()[0], headers=JPEG)
    assert answer.status_code in (307, 404)
    assert httpx.get(behind.url + "/predict").status_code == 405


def test_another_origin_may_ask_and_read(behind):
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    assert httpx.options(f"{behind.url}/predict", headers=asked).headers["Access-Control-Allow-Origin"] == ORIGIN
    answer = httpx.post(f"{behind.url}/predict", content=photographs()[0], headers=JPEG | {"Origin": ORIGIN})
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Server-Timing" in answer.headers["Access-Control-Expose-Headers"]
    bad = httpx.post(f"{behind.url}/predict", content=b"no", headers=JPEG | {"Origin": ORIGIN})
    assert bad.status_code == 422
    assert bad.headers["Access-Control-Allow-Origin"] == ORIGIN


def test_a_bug_is_a_500_without_a_traceback():
    class Broken:
        async def answer(self, request, call, respond):
            raise KeyError("secret")

    sent = []

    async def send(message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "state": {"request_id": "r"}}
    asyncio.run(PredictFirst(None, Broken(), "", [Native()])(scope, None, send))
    assert sent[0]["status"] == 500
    problem = json.loads(sent[1]["body"])
    assert problem["request_id"] == "r"
    assert "secret" not in sent[1]["body"].decode()
