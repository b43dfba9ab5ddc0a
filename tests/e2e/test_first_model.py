"""The commands that are offered to somebody without a model, pasted into a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch
import torchvision

import service
from tests.support.models import flower
from tests.support.server import Server

ROOT = Path(service.__file__).parents[1]
JPEG = {"Content-Type": "image/jpeg"}
#: A folder whose name a shell would take apart.
MODELS = "my models"


def surroundings(tree: Path) -> dict[str, str]:
    """Variables of a shell that finds `gradless` and, with it, the service of that tree; and a quick start."""
    quick = {"GRADLESS_PORT": "0", "GRADLESS_DEVICE": "cpu", "GRADLESS_OPTIMIZE": "eager"}
    return quick | {"PYTHONPATH": str(tree), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def offered(tree: Path, folder: Path) -> list[str]:
    """The commands of the refusal that a start in this folder ends in."""
    command = [sys.executable, "-m", "gradless", "serve", "--models", MODELS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | surroundings(tree))
    assert done.returncode == 2, done.stderr
    return [line.strip() for line in done.stderr.splitlines() if line.startswith("    ")]


def pasted(tree: Path, folder: Path, **variables: str) -> Server:
    commands = offered(tree, folder)
    assert len(commands) == 3
    environment = surroundings(tree) | variables
    return Server(Path("unused"), command=("bash", "-c", "\n".join(commands)), environment=environment, folder=folder)


def labels_of(server: Server) -> list[str]:
    answer = httpx.post(f"{server.url}/predict", content=flower(), headers=JPEG, timeout=30)
    assert answer.status_code == 200, answer.text
    return [entry["label"] for entry in answer.json()["predictions"][0]["classes"]]


@pytest.mark.parametrize("is_there", [True, False])
def test_three_commands_make_a_model_that_knows_a_flower(tmp_path, is_there):
    if is_there:
        (tmp_path / MODELS).mkdir()
    with pasted(ROOT, tmp_path) as server:
        server.started()
        assert labels_of(server)[0] == "daisy"


def test_where_the_default_model_is_not_at_hand_torchvisions_weights_are_offered(tmp_path):
    installed = tmp_path / "installed"
    shutil.copytree(ROOT / "service", installed / "service")
    shutil.copy(ROOT / "gradless.py", installed)
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    fetched = tmp_path / "torch" / "hub" / "checkpoints" / Path(weights.url).name
    fetched.parent.mkdir(parents=True)
    torch.save(torchvision.models.resnet18().state_dict(), fetched)  # not the real ones, which would be fetched
    with pasted(installed, tmp_path, TORCH_HOME=str(tmp_path / "torch")) as server:
        server.started()
        assert set(labels_of(server)) <= set(weights.meta["categories"])
