"""The commands that are offered to somebody without a model, pasted into a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import torch
import torchvision

import service
from tests.support.models import SHIPPED, assert_right, direct, flower
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


def answer_for_a_flower(server: Server) -> dict[str, Any]:
    answer = httpx.post(f"{server.url}/predict", content=flower(), headers=JPEG, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def labels_of(answer: dict[str, Any]) -> list[str]:
    return [entry["label"] for entry in answer["predictions"][0]["classes"]]


def files_below(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_three_commands_make_a_model_that_knows_a_flower_whether_or_not_the_folder_is_there(tmp_path):
    absent, there = tmp_path / "absent", tmp_path / "there"
    absent.mkdir()
    (there / MODELS).mkdir(parents=True)
    commands = offered(ROOT, there)
    assert commands == offered(ROOT, absent)
    subprocess.run(["bash", "-c", "\n".join(commands[:2])], cwd=there, check=True)
    with pasted(ROOT, absent) as server:
        answer = answer_for_a_flower(server.started())
        assert_right(answer, direct(SHIPPED, "efficientnet_lite0"), flower())
        assert labels_of(answer)[0] == "daisy"
        assert files_below(there) == files_below(absent)


def test_where_the_default_model_is_not_at_hand_torchvisions_weights_are_offered(tmp_path):
    installed = tmp_path / "installed"
    shutil.copytree(ROOT / "service", installed / "service")
    shutil.copy(ROOT / "gradless.py", installed)
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    fetched = tmp_path / "torch" / "hub" / "checkpoints" / Path(weights.url).name
    fetched.parent.mkdir(parents=True)
    torch.save(torchvision.models.resnet18().state_dict(), fetched)  # not the real ones, which would be fetched
    with pasted(installed, tmp_path, TORCH_HOME=str(tmp_path / "torch")) as server:
        assert set(labels_of(answer_for_a_flower(server.started()))) <= set(weights.meta["categories"])
