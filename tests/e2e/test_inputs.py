"""Grey models, and models that see a picture stretched, over a real socket and in `gradless predict`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from service.loader.load import LoadedModel, load
from service.loader.repository import find_models
from tests.support.models import TOLERANCE, flower, make_models, photographs
from tests.support.server import Server

JPEG = {"Content-Type": "image/jpeg"}
CARD = """\
weights = "random:1"
architecture = "architecture:net"
[input]
"""
CODE = """\
from torch import nn


def net():
    return nn.Sequential(
        nn.Conv2d({channels}, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(48, 10)
    )
"""
INPUTS = {
    "grey": "resize = 36\ncrop = 32\nmean = [127.5]\nstd = [64]\n",
    "stretched": "resize = [24, 40]\n",
    "both": "resize = [40, 24]\nmean = [33.3]\nstd = [78.6]\n",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_models(tmp_path_factory.mktemp("inputs") / "m", **{name: CARD + INPUTS[name] for name in INPUTS})
    for name in INPUTS:
        (root / name / "architecture.py").write_text(CODE.format(channels=3 if name == "stretched" else 1))
    return root


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    with Server(models, "--default-model", "grey") as running:
        yield running.started()


def expected(loaded: LoadedModel, picture: Image.Image) -> torch.Tensor:
    """Probabilities of a direct forward behind torchvision's own transforms."""
    spec = loaded.input
    steps = [v2.Resize(spec.resize, antialias=True), *([v2.CenterCrop(spec.crop)] if spec.crop else [])]
    pixels = v2.Compose([v2.PILToTensor(), *steps])(picture)
    if len(spec.mean) == 1:
        pixels = v2.PILToTensor()(v2.Grayscale()(v2.ToPILImage()(pixels)))
    with torch.inference_mode():
        return loaded.module(v2.Normalize(spec.mean, spec.std)(pixels.float()).unsqueeze(0)).softmax(1)[0]


def assert_like(classes: list[dict], probabilities: torch.Tensor) -> None:
    assert len(classes) == len(probabilities)
    for entry in classes:
        assert abs(entry["probability"] - probabilities[entry["id"]].item()) <= TOLERANCE


@pytest.mark.parametrize("name", INPUTS)
def test_a_model_sees_a_picture_as_torchvisions_transforms_make_it(server, models, name):
    loaded = load(find_models(models)[name])
    path = f"{server.url}/models/{name}/predict?top_k=10"
    for data in [flower(), *photographs()[:3]]:
        answer = httpx.post(path, content=data, headers=JPEG)
        assert answer.status_code == 200, answer.text
        with Image.open(io.BytesIO(data)) as picture:
            assert_like(answer.json()["predictions"][0]["classes"], expected(loaded, picture.convert("RGB")))


@pytest.mark.parametrize("name", INPUTS)
def test_several_pictures_and_numbers_are_answered_in_order(server, models, name):
    loaded = load(find_models(models)[name])
    path = f"{server.url}/models/{name}/predict?top_k=10"
    pictures = [Image.open(io.BytesIO(data)).convert("RGB").resize((50, 45)) for data in photographs()[:11]]
    rows = [torch.from_numpy(v2.PILToTensor()(picture).permute(1, 2, 0).numpy()).tolist() for picture in pictures]
    answer = httpx.post(path, json={"instances": rows})
    assert answer.status_code == 200, answer.text
    for prediction, picture in zip(answer.json()["predictions"], pictures, strict=True):
        assert_like(prediction["classes"], expected(loaded, picture))


def test_the_card_that_is_shown_says_what_a_model_sees(server):
    shown = httpx.get(f"{server.operations}/models/both").json()
    assert shown["input"] == {
        "resize": [40, 24],
        "crop": None,
        "interpolation": "bilinear",
        "mean": [33.3],
        "std": [78.6],
    }


def test_a_folder_of_pictures_is_classified_without_a_server(models, tmp_path, here):
    (tmp_path / "flower.jpg").write_bytes(flower())
    words = ["predict", str(tmp_path / "flower.jpg"), "--models", str(models), "--model", "both", "--top-k", "10"]
    code, out, err = here(*words, "--json")
    assert code == 0, err
    [prediction] = json.loads(out)["predictions"]
    loaded = load(find_models(models)["both"])
    with Image.open(io.BytesIO(flower())) as picture:
        assert_like(prediction["classes"], expected(loaded, picture.convert("RGB")))
