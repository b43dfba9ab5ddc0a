"""Models as other people keep them: in a checkpoint, in an installed package, with arguments, with logits."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest
import torch

from tests.support.models import assert_right, direct, make_models, photographs
from tests.support.server import Server
from tests.support.traffic import JPEG

CARD = """\
weights = "{weights}"
architecture = "{architecture}"
{lines}
[input]
resize = 32
crop = 32
"""
#: A network whose factory has to be told how many classes there are, and what its forward gives.
NETS = """\
from torch import nn


def net(num_classes):
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, num_classes))


class WithLogits(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.net = net(num_classes)

    def forward(self, pixel_values):
        return {"features": pixel_values, "logits": self.net(pixel_values)}
"""
ARGUMENTS = "architecture_arguments = { num_classes = 7 }"
CARDS = {
    "averaged": ("file:last.ckpt", "nets:net", f'checkpoint_key = "ema"\nstrip_prefix = "module."\n{ARGUMENTS}'),
    "installed": ("random:1", "package_of_a_server.nets:net", ARGUMENTS),
    "logits": ("random:1", "nets:WithLogits", ARGUMENTS),
    "torchvisions": ("random:1", "torchvision:resnet18", ARGUMENTS),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name, (weights, architecture, lines) in CARDS.items():
        make_models(root, **{name: CARD.format(weights=weights, architecture=architecture, lines=lines)})
        if architecture.startswith("nets:"):
            (root / name / "nets.py").write_text(NETS)
    torch.manual_seed(2)
    last = torch.nn.Linear(48, 7)
    state, averaged = last.state_dict(prefix="2."), {"module.2.weight": last.weight / 2, "module.2.bias": last.bias}
    torch.save({"epoch": 3, "state_dict": state, "ema": averaged}, root / "averaged" / "last.ckpt")
    return root


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A place on PYTHONPATH."""
    site = tmp_path_factory.mktemp("site")
    (site / "package_of_a_server").mkdir()
    (site / "package_of_a_server" / "nets.py").write_text(NETS)
    (site / "package_of_a_server" / "__init__.py").touch()
    return site


@pytest.fixture(scope="module")
def server(models, site):
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    with Server(models, "--default-model", "averaged", environment={"PYTHONPATH": path}) as running:
        yield running.started()


@pytest.mark.parametrize("name", CARDS)
def test_the_answers_are_those_of_the_model_itself(server, models, site, monkeypatch, name):
    monkeypatch.syspath_prepend(site)
    picture = photographs()[0]
    answer = httpx.post(f"{server.url}/models/{name}/predict?top_k=7", content=picture, headers=JPEG)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["predictions"][0]["classes"]) == 7
    assert_right(answer.json(), direct(models, name), picture)
