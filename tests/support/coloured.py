"""Models that misbehave for pictures of one colour: their card, such pictures, and what became of the engine."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.support.models import make_models
from tests.support.server import Server

#: Pixels reach the model as they were sent, so that it can tell a colour.
CARD = """\
weights = "random:1"
architecture = "architecture:{name}"
[input]
resize = 32
crop = 32
mean = [0, 0, 0]
std = [1, 1, 1]
"""

#: A factory `fragile` of a model of one layer, and what its forward does first.
FRAGILE = """\
import pathlib
import time

import torch
from torch import nn

HERE = pathlib.Path(__file__).parent


class Fragile(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(8)
        self.last = nn.Linear(48, 10)

    def forward(self, x):
{forward}\
        return self.last(torch.flatten(self.pool(x), 1))


def fragile():
    return Fragile()
"""

Colour = tuple[int, int, int]


def fragile_code(forward: str) -> str:
    """An `architecture.py`; `forward` is lines of Python, indented as they stand in it."""
    return FRAGILE.format(forward=forward)


def make_coloured(root: Path, name: str, code: str) -> Path:
    """A models folder with one model, whose factory in `code` has its name."""
    make_models(root, **{name: CARD.format(name=name)})
    (root / name / "architecture.py").write_text(code)
    return root


def picture_of(colour: Colour) -> list[list[list[int]]]:
    return [[list(colour)] * 40] * 40


def ask(server: Server, *colours: Colour, **headers: str) -> httpx.Response:
    """One request for a picture of each colour."""
    body = {"instances": [picture_of(colour) for colour in colours]}
    return httpx.post(f"{server.url}/predict", json=body, headers=headers, timeout=60)


def restarts(server: Server, reason: str, device: str = "cpu") -> float:
    return server.metric("gradless_engine_restarts_total", device=device, reason=reason)
