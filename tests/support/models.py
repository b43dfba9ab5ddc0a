"""Model folders for tests, real photographs, and the answers that a direct forward gives."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import sklearn
import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from service.loader.load import load
from service.loader.repository import find_models
from service.tasks.photographs import bench_pictures

SHIPPED = Path(__file__).parents[2] / "models"

#: A resnet18 on small inputs: a few milliseconds a forward, and answers that differ between inputs and seeds.
SMALL = """\
task = "classification"
weights = "random:{seed}"
architecture = "torchvision:resnet18"
[input]
resize = 72
crop = 64
"""

#: A model that costs nothing: what is left is the server's own.
TRIVIAL = """\
task = "classification"
weights = "random:1"
architecture = "architecture:trivial"
[input]
resize = 32
crop = 32
[batching]
max_batch_size = 32
"""
TRIVIAL_CODE = """\
from torch import nn


def trivial():
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
"""


def make_models(root: Path, **cards: str) -> Path:
    """A models folder with one model for each name and card."""
    for name, card in cards.items():
        (root / name).mkdir(parents=True)
        (root / name / "model.toml").write_text(card)
    return root


def make_trivial(root: Path) -> Path:
    make_models(root, trivial=TRIVIAL)
    (root / "trivial" / "architecture.py").write_text(TRIVIAL_CODE)
    return root


@cache
def photographs(count: int = 16) -> list[bytes]:
    """Different real JPEGs: crops of the photographs that come in packages."""
    generator = np.random.default_rng(7)
    pictures, originals = [], bench_pictures()
    for number in range(count):
        with Image.open(io.BytesIO(originals[number % len(originals)])) as picture:
            width, height = picture.size
            w, h = generator.integers(width // 2, width), generator.integers(height // 2, height)
            x, y = generator.integers(0, width - w), generator.integers(0, height - h)
            file = io.BytesIO()
            picture.crop((int(x), int(y), int(x + w), int(y + h))).save(file, "JPEG", quality=92)
        pictures.append(file.getvalue())
    return pictures


def flower() -> bytes:
    """scikit-learn's photograph of a flower, as it comes."""
    return (Path(sklearn.__file__).parent / "datasets" / "images" / "flower.jpg").read_bytes()


@dataclass
class Direct:
    """A model without a server: what every answer is held against."""

    name: str
    version: str
    module: torch.nn.Module
    resize: int
    crop: int
    interpolation: InterpolationMode
    mean: torch.Tensor
    std: torch.Tensor
    known: dict[bytes, torch.Tensor] = field(default_factory=dict)

    def probabilities(self, picture: bytes) -> torch.Tensor:
        """`(classes,) float32` of one picture, alone, contiguous, on the CPU; PIL decodes it, not torchvision."""
        if picture not in self.known:
            self.known[picture] = self._forward(picture)
        return self.known[picture]

    def _forward(self, picture: bytes) -> torch.Tensor:
        with Image.open(io.BytesIO(picture)) as file:
            rows = np.array(ImageOps.exif_transpose(file).convert("RGB"))
        image = torch.from_numpy(rows).permute(2, 0, 1)
        image = transforms.resize(image, [self.resize], interpolation=self.interpolation, antialias=True)
        image = transforms.center_crop(image, [self.crop, self.crop])
        with torch.inference_mode():
            returned = self.module(((image.float() - self.mean) / self.std).unsqueeze(0))
        logits = returned["logits"] if isinstance(returned, dict) else returned
        return torch.softmax(logits, dim=1)[0]


def direct(models: Path, name: str) -> Direct:
    loaded = load(find_models(models)[name])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (loaded.input.mean, loaded.input.std))
    interpolation = InterpolationMode(loaded.input.interpolation)
    return Direct(name, loaded.version, loaded.module, loaded.input.resize, loaded.input.crop, interpolation, mean, std)


#: How far a probability may be from the direct forward's. Batch sizes, memory formats and processors differ in the last
#: bits: the proof allows outputs 1e-5 of the largest, which is some twenty, and a probability moves by half as much.
TOLERANCE = 1e-4


def assert_right(answer: dict, model: Direct, *pictures: bytes, tolerance: float = TOLERANCE) -> None:
    """Every class and probability of a 200 is what the model says of these pictures, within the tolerance."""
    assert answer["model"] == model.name
    assert answer["version"] == model.version
    assert len(answer["predictions"]) == len(pictures)
    for prediction, picture in zip(answer["predictions"], pictures, strict=True):
        expected = model.probabilities(picture)
        classes = prediction["classes"]
        assert classes, "no classes"
        best = torch.topk(expected, len(classes)).values
        for rank, entry in enumerate(classes):
            assert abs(entry["probability"] - expected[entry["id"]].item()) <= tolerance
            assert abs(entry["probability"] - best[rank].item()) <= tolerance
