"""docs/protocols.md: each request works as it stands, and each answer that is shown is one that comes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.frontend.protocols.spoken import protocols
from tests.support.models import flower, make_trivial
from tests.support.server import Server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocols.md").read_text()
BLOCKS = re.findall(r"^```(sh|json|python)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
#: Each command or program, and the answer that stands below it, if one does.
EXAMPLES = [
    (kind, code, after[1] if after[0] == "json" else "")
    for (kind, code), after in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True)
    if kind != "json"
]
CARD = """\
task = "tensor"
weights = "random:1"
architecture = "net:make"
[inputs.x]
shape = [4]
"""
CODE = """\
from torch import nn


def make():
    return nn.Linear(4, 3)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where people stand: beside the models, with a photograph."""
    folder = tmp_path_factory.mktemp("protocols")
    make_trivial(folder / "models")
    (folder / "models" / "iris").mkdir()
    (folder / "models" / "iris" / "model.toml").write_text(CARD)
    (folder / "models" / "iris" / "net.py").write_text(CODE)
    (folder / "flower.jpg").write_bytes(flower())
    return folder


@pytest.fixture(scope="module")
def server(folder):
    routes = {"AIP_PREDICT_ROUTE": "/vertex/predict", "AIP_HEALTH_ROUTE": "/vertex/health"}
    with Server(folder / "models", "--default-model", "iris", environment=routes) as running:
        yield running.started()


def matches(shown, found) -> bool:
    """Tell whether an answer is as it is shown; … stands for what differs from machine to machine."""
    if shown == "…":
        return True
    if isinstance(shown, dict):
        return shown.keys() == found.keys() and all(matches(shown[key], found[key]) for key in shown)
    if isinstance(shown, list) and isinstance(found, list):
        return len(shown) == len(found) and all(map(matches, shown, found))
    return shown == found


def run(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_is_an_example_of_each_protocol():
    paths = ("/infer", ":predict", "/invocations", "/vertex/predict", "/hf/", "tritonclient")
    assert not [path for path in paths if not any(path in code for _, code, _ in EXAMPLES)]


@pytest.mark.parametrize(("kind", "code", "shown"), EXAMPLES, ids=[code.split("\n")[0][:60] for _, code, _ in EXAMPLES])
def test_an_example_works(kind, code, shown, server, folder):
    code = code.replace("localhost:8000", server.url.removeprefix("http://"))
    command = ["bash", "-c", code] if kind == "sh" else [sys.executable, "-c", code]
    answer = run(command, folder)
    assert answer.strip()
    assert '"error"' not in answer
    if shown:
        assert matches(json.loads(shown), json.loads(answer)), answer
    elif kind == "sh" and "text/csv" in code:
        assert len(answer.split(",")) == 3


def test_the_health_of_vertex_is_that_of_the_server(server, folder):
    assert json.loads(run(["curl", "-s", f"{server.url}/vertex/health"], folder)) == {"status": "healthy"}


def test_the_table_names_every_protocol_that_is_spoken():
    labels = re.findall(r"\| `(\w+)` \|$", PAGE, re.MULTILINE)
    assert labels == [*dict.fromkeys(labels)]
    assert set(labels) == {protocol.name for protocol in protocols()}
