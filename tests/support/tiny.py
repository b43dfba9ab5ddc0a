"""A model of 65 parameters in a folder of its own, for tests of the loader."""

from __future__ import annotations

from pathlib import Path

from service.loader.repository import ModelFolder, find_models
from tests.support.models import make_models

CLASSES = 5
CODE = f"""\
from torch import nn


def tiny():
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, {CLASSES}))
"""
INPUT = """\
[input]
resize = 8
crop = 8
"""


def card(weights: str = "random:1", *lines: str) -> str:
    """The card of a tiny model; `lines` are further keys of its first table."""
    return "\n".join([f'weights = "{weights}"', 'architecture = "architecture:tiny"', *lines, INPUT])


def tiny_at(root: Path, weights: str = "random:1", *lines: str, code: str = CODE, name: str = "tiny") -> Path:
    """A folder with a tiny model, not yet looked at."""
    make_models(root, **{name: card(weights, *lines)})
    (root / name / "architecture.py").write_text(code)
    return root / name


def tiny(root: Path, weights: str = "random:1", *lines: str, code: str = CODE) -> ModelFolder:
    """The same, found; files that the card names must be in `root`/tiny already."""
    path = root / "tiny"
    if not path.exists():
        tiny_at(root, weights, *lines, code=code)
    return find_models(root)["tiny"]
