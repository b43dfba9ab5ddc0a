"""Whatever a new user brings is answered right, or refused by the sentence that docs/models.md shows."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import service
from service.commands import check
from service.loader.card import read_card
from service.settings import Settings
from tests.support import newcomer
from tests.support.models import TOLERANCE
from tests.support.newcomer import CASES, REQUESTS, STARTS, Case
from tests.support.server import Server

DOCS = Path(service.__file__).parents[1] / "docs"
SERVED = [name for name, case in CASES.items() if case.is_served]
REFUSED = [name for name, case in CASES.items() if not case.is_served]
#: Of a card that is not TOML nobody knows that the server need not have its model.
NOT_BESIDE_OTHERS = {"toml"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, case in CASES.items():
        case.make(root / name)
    return root


@pytest.fixture(scope="module")
def checked(models) -> dict[str, dict[str, Any]]:
    """What `gradless check` says of each, which in this process has torch already."""
    with pytest.MonkeyPatch.context() as patching, warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a process of its own, where none is an error
        patching.setattr(check, "keep_freed_memory", lambda: None)  # the tests that come after have theirs freed
        outcome = check.check_models([], Settings(models=models, device="cpu"), lambda line: None)
    assert outcome.exit_code == 2
    return {model["model"]: model for model in json.loads(json.dumps(outcome.summary()))["models"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that serves what it can, and need not have any of them."""
    root = tmp_path_factory.mktemp("optional")
    for name in {*CASES} - NOT_BESIDE_OTHERS:
        CASES[name].make(root / name)
        card = root / name / "model.toml"
        card.write_text("required = false\n" + card.read_text())
    with Server(root, "--default-model", "from-pretrained") as running:
        running.started().wait_ready()
        yield running


def picture(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def ask(server: Server, path: str, pixels: np.ndarray, headers: dict[str, str] | None = None) -> httpx.Response:
    more = {"Content-Type": "image/png"} | (headers or {})
    return httpx.post(f"{server.url}{path}", content=png(pixels), headers=more)


@torch.no_grad()
def right_of(case: Case, folder: Path, pixels: np.ndarray) -> torch.Tensor:
    """Probabilities of the module itself, `(classes)`."""
    spec = read_card(folder).input
    if len(spec.mean) == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    images = ((torch.from_numpy(pixels.copy()) - mean) / std).permute(2, 0, 1).unsqueeze(0)
    assert case.right
    return case.right().eval()(images)[0]


def matches(said: str, sentence: str) -> bool:
    return said.endswith(sentence.removeprefix("…")) if sentence.startswith("…") else said == sentence


def test_there_are_many_cases_and_all_of_them_are_in_the_documentation():
    assert len(CASES) >= 40
    assert newcomer.section() in (DOCS / "models.md").read_text()


@pytest.mark.parametrize("name", REFUSED)
def test_check_refuses_it_with_the_sentence_of_the_documentation(checked, models, name):
    found, case = checked[name], CASES[name]
    assert not found["passed"]
    assert case.says
    if found["error"]:
        file, _, said = found["error"].partition(": ")
        assert Path(file).parent == models / name
    else:
        [said] = [finding["detail"] for finding in found["findings"] if finding["level"] == "refused"]
    assert matches(said, case.says)


@pytest.mark.parametrize("name", SERVED)
def test_check_passes_it_and_says_what_is_odd(checked, name):
    found, case = checked[name], CASES[name]
    assert found["error"] == ""
    assert found["passed"] is (case.level != "severe")
    assert [(each["level"], each["detail"]) for each in found["findings"]] == [(case.level, case.says)] * bool(
        case.level
    )


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in NOT_BESIDE_OTHERS])
def test_the_server_refuses_it_and_serves_the_others(server, name):
    shown = httpx.get(f"{server.operations}/models/{name}").json()
    assert shown["state"] == "failed"
    assert shown["detail"].rstrip(".").endswith(CASES[name].says.removeprefix("…").rstrip("."))
    refused = ask(server, f"/models/{name}/predict", picture())
    assert refused.status_code == 503


@pytest.mark.parametrize("name", SERVED)
def test_the_server_answers_what_the_module_says(server, models, name):
    case = CASES[name]
    shown = httpx.get(f"{server.operations}/models/{name}").json()
    assert [each["detail"] for each in shown["warnings"]] == [case.says] * bool(case.level)
    for seed in (1, 2):
        answer = ask(server, f"/models/{name}/predict?top_k=100", picture(seed))
        assert answer.status_code == 200, answer.text
        [prediction] = answer.json()["predictions"]
        if case.right:
            expected = right_of(case, models / name, picture(seed))
            assert len(prediction["classes"]) == len(expected)
            for entry in prediction["classes"]:
                assert abs(entry["probability"] - expected[entry["id"]].item()) <= TOLERANCE


@pytest.mark.parametrize("sent", REQUESTS, ids=lambda sent: sent.sends)
def test_a_request_gets_what_it_asks_for_or_the_sentence(server, sent):
    if sent.form:
        files = {"file": ("picture.png", png(picture()), "image/png")}
        answer = httpx.post(f"{server.url}/predict", data=sent.form, files=files)
    else:
        answer = ask(server, f"/predict{sent.query}", picture(), sent.headers)
    if sent.says:
        assert (answer.status_code, answer.json()["detail"]) == (422, sent.says)
    else:
        assert answer.status_code == 200, answer.text
        assert [len(prediction["classes"]) for prediction in answer.json()["predictions"]] == [3]


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.starts)
def test_a_start_that_cannot_be_ends_with_the_sentence(tmp_path, start):
    for name in start.models:
        CASES[name].make(tmp_path / name)
    command = [sys.executable, "-m", "service", "serve", "--models", str(tmp_path), "--port", "0", *start.flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert start.says in done.stderr
