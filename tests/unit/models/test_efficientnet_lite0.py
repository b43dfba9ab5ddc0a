"""The shipped model: its weights fit to the last tensor, and it sees what photographs show."""

import importlib.util
from pathlib import Path

import pytest
import torch

from service.loader.load import load
from service.loader.repository import find_models, package_file
from service.tasks.adapters.heads import best_classes
from service.tasks.inputs.picture import ImageDecoder
from tests.support.models import SHIPPED

#: Photographs that come inside packages, what their documentation says they show, and the classes that say so.
FIRST = {
    "sklearn/datasets/images/china.jpg": {"palace"},  # the Summer Palace
    "sklearn/datasets/images/flower.jpg": {"daisy"},  # a dahlia, of the daisy's family; ImageNet has no closer class
    "skimage/data/camera.png": {"tripod", "reflex camera"},  # a man at a camera on a tripod
    "skimage/data/chelsea.png": {"tabby", "tiger cat", "Egyptian cat"},  # Chelsea the cat
    "skimage/data/coffee.png": {"espresso", "cup", "coffee mug"},  # a coffee cup of the Pikolo Espresso Bar
    "skimage/data/motorcycle_left.png": {"moped", "motor scooter"},  # a motorcycle, seen with the left eye
    "skimage/data/motorcycle_right.png": {"moped", "motor scooter"},  # and with the right one
    "skimage/data/rocket.jpg": {"missile", "projectile"},  # a Falcon 9 on its launch pad
}
IN_THE_TOP_FIVE = {
    "skimage/data/camera.png": {"reflex camera"},
    "skimage/data/chelsea.png": {"tabby"},
    "skimage/data/clock_motion.png": {"wall clock"},  # a wall clock, blurred by motion
    "skimage/data/coffee.png": {"cup"},
}


@pytest.fixture(scope="module")
def folder():
    return find_models(SHIPPED)["efficientnet_lite0"]


@pytest.fixture(scope="module")
def model(folder):
    return load(folder)


def top_five(model, photograph):
    package, _, inside = photograph.partition("/")
    data = (Path(importlib.util.find_spec(package).origin).parent / inside).read_bytes()
    pixels = torch.from_numpy(ImageDecoder(model.input, max_pixels=1_000_000).decode(data))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.input.mean, model.input.std))
    with torch.inference_mode():
        _, ids = best_classes(model.module((pixels - mean) / std), 5)
    return [model.answer["labels"][number] for number in ids[0].tolist()]


def test_every_tensor_of_the_package_is_in_the_architecture_and_no_other(folder, model):
    published = torch.load(package_file(folder.card.part("weights")[1]), weights_only=True)
    assert len(published) == 296
    loaded = model.module.state_dict()
    assert loaded.keys() == published.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in published.items())


def test_it_has_imagenets_classes_and_the_size_of_the_paper(model):
    assert model.adapter.raw[0].shape == (1000,)
    assert len(model.answer["labels"]) == 1000
    assert sum(parameter.numel() for parameter in model.module.parameters()) == 4_652_008


@pytest.mark.parametrize("photograph", FIRST)
def test_what_a_photograph_shows_comes_first(model, photograph):
    assert top_five(model, photograph)[0] in FIRST[photograph]


@pytest.mark.parametrize("photograph", IN_THE_TOP_FIVE)
def test_what_a_photograph_also_shows_is_in_the_top_five(model, photograph):
    assert IN_THE_TOP_FIVE[photograph] & set(top_five(model, photograph))


def test_any_size_of_picture_and_of_batch_gives_a_row_each(model):
    with torch.inference_mode():
        for shape in [(1, 3, 224, 224), (3, 3, 224, 224), (2, 3, 225, 160)]:
            assert model.module(torch.zeros(shape)).shape == (shape[0], 1000)
