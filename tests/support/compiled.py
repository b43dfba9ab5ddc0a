"""Compiling behind serving: a model that a package wins by much, and what tests ask of a server meanwhile."""

from __future__ import annotations

from pathlib import Path

import httpx
import psutil

from tests.support.models import make_models
from tests.support.server import Server, wait_for

#: A sitecustomize that hides OpenVINO, so that AOTInductor's packages are what wins.
NO_OPENVINO = {"PYTHONPATH": str(Path(__file__).parent / "no_openvino")}

#: AOTInductor believes what the processor says of its vector units; else it compiles a trial of each kind before the
#: first package of a cache, which is half of the build.
NO_TRIALS = {"TORCHINDUCTOR_VEC_ISA_OK": "1"}

#: A model of 180 operators on tensors so small that eager's time is their dispatch: a package takes a fifth to a third
#: of it, whatever the processor. They become one kernel, which a C++ compiler makes in seconds.
CARD = """\
weights = "random:1"
architecture = "architecture:small"
[input]
resize = 72
crop = 64
"""
CODE = """\
from torch import nn


class Pointwise(nn.Module):
    def forward(self, x):
        for _ in range(60):
            x = (x * 0.99).clamp(-8, 8) + 0.01
        return x


def small():
    convolution = [nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.AvgPool2d(7)]
    return nn.Sequential(*convolution, Pointwise(), nn.Flatten(), nn.Linear(256, 10))
"""


def make_small(root: Path) -> Path:
    """A folder with that model, whose forward is short."""
    models = make_models(root, small=CARD)
    (models / "small" / "architecture.py").write_text(CODE)
    return models


def optimization(server: Server, model: str = "small") -> dict:
    return httpx.get(f"{server.operations}/models/{model}", timeout=30).json()["optimization"]


def wait_until(server: Server, state: str, limit: float = 30) -> dict:
    return wait_for(lambda: (now := optimization(server))["state"] == state and now, limit, state)


def compilers_of(server: Server) -> list[psutil.Process]:
    """Its compiler, if one runs: a child of the fork server, in a group of its own."""
    found = []
    for pid in server.pids("gradless: fork server"):
        for process in psutil.Process(pid).children():
            if " ".join(process.cmdline()).startswith("gradless: compiler"):
                found.append(process)
    return found
