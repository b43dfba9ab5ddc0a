"""`torchvision:` weights and architectures, from a cache that is filled here: nothing is downloaded."""

import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision

from service.errors import ConfigurationError
from service.loader.load import load
from service.loader.repository import find_models
from service.loader.resolved import resolved_input, resolved_labels
from service.loader.weights import build
from tests.support.models import make_models

#: Small, and with another `resize` than a card's default.
WEIGHTS = torchvision.models.MNASNet0_75_Weights.DEFAULT
CARD = """\
weights = "torchvision:MNASNet0_75_Weights.DEFAULT"
architecture = "torchvision:mnasnet0_75"
"""


def folder(root, card=CARD):
    return find_models(make_models(root, mnasnet=card))["mnasnet"]


def refused(folder):
    with pytest.raises(ConfigurationError) as caught:
        build(folder)
    [problem] = caught.value.problems
    return problem


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Where torch looks for the weights before it downloads them, which it cannot here."""

    def offline(*_, **__):
        raise URLError("offline")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    checkpoints = tmp_path / "home" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints / Path(WEIGHTS.url).name


def test_cached_weights_are_loaded_with_the_labels_and_the_input_they_were_trained_with(tmp_path, cached):
    state = torchvision.models.mnasnet0_75().state_dict()
    torch.save(state, cached)
    model = load(folder(tmp_path))
    loaded = model.module.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())
    assert model.answer["labels"] == WEIGHTS.meta["categories"]
    assert (model.input.resize, model.input.crop) == (232, 224)


def test_what_the_weights_say_of_the_input_counts_where_the_card_is_silent(tmp_path):
    card = 'weights = "torchvision:EfficientNet_B1_Weights.DEFAULT"\narchitecture = "torchvision:efficientnet_b1"\n'
    spec = resolved_input(folder(tmp_path, card))
    assert (spec.resize, spec.crop, spec.interpolation) == (255, 240, "bilinear")
    assert spec.mean == pytest.approx((123.675, 116.28, 103.53))
    assert spec.std == pytest.approx((58.395, 57.12, 57.375))


def test_the_cards_own_keys_win_over_the_weights(tmp_path):
    spec = resolved_input(folder(tmp_path, CARD + '[input]\ncrop = 200\ninterpolation = "bicubic"\nmean = [1, 2, 3]\n'))
    assert (spec.resize, spec.crop, spec.interpolation, spec.mean) == (232, 200, "bicubic", (1, 2, 3))


def test_a_key_that_the_card_spells_as_its_default_wins_too(tmp_path):
    assert resolved_input(folder(tmp_path, CARD + "[input]\nresize = 256\n")).resize == 256


def test_with_other_weights_the_input_is_the_cards(tmp_path):
    card = CARD.replace("torchvision:MNASNet0_75_Weights.DEFAULT", "random:1")
    assert resolved_input(folder(tmp_path, card)).resize == 256


def test_the_cards_labels_win_over_the_weights(tmp_path):
    assert resolved_labels(folder(tmp_path, 'labels = ["a", "b"]\n' + CARD), 2) == ["a", "b"]


def test_a_cached_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path, cached):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"layers.0.weight": Attack()}, cached)
    assert "weights: fetching MNASNet0_75_Weights.DEFAULT raised UnpicklingError" in refused(folder(tmp_path))
    assert not (tmp_path / "executed").exists()


def test_cached_weights_of_another_architecture_are_refused(tmp_path, cached):
    torch.save({"fc.weight": torch.zeros(1)}, cached)
    with pytest.raises(ConfigurationError) as caught:
        build(folder(tmp_path))
    missing, unexpected, _ = caught.value.problems
    assert "missing from the weights: layers.0.weight" in missing
    assert "unexpected in the weights: fc.weight" in unexpected


@pytest.mark.usefixtures("cached")
def test_weights_that_cannot_be_fetched_are_told_with_what_to_do(tmp_path):
    problem = refused(folder(tmp_path))
    assert "fetching MNASNet0_75_Weights.DEFAULT raised URLError" in problem
    assert "download the weights beforehand, or name a file of them: file:NAME" in problem


@pytest.mark.parametrize("name", ["MNASNet9_Weights.DEFAULT", "MNASNet0_75_Weights.BEST", "mnasnet0_75", "os.system"])
def test_weights_that_torchvision_does_not_know_are_refused(tmp_path, name):
    problem = refused(folder(tmp_path, CARD.replace("MNASNet0_75_Weights.DEFAULT", name)))
    assert f"weights: looking up {name} raised" in problem


def test_weights_of_a_segmentation_are_refused(tmp_path):
    card = CARD.replace("MNASNet0_75", "FCN_ResNet50")
    with pytest.raises(ConfigurationError, match="use weights of a classification"):
        resolved_input(folder(tmp_path, card))


@pytest.mark.parametrize("name", ["resnet19", "fcn_resnet50", "fasterrcnn_resnet50_fpn", "raft_small", "ResNet"])
def test_an_architecture_that_is_no_classification_model_of_torchvision_is_refused(tmp_path, name):
    card = f'weights = "random:1"\narchitecture = "torchvision:{name}"\n'
    assert f"architecture: torchvision has no classification model {name!r}" in refused(folder(tmp_path, card))


def test_a_card_that_stretches_leaves_the_crop_of_the_weights_out(tmp_path):
    spec = resolved_input(folder(tmp_path, CARD + "[input]\nresize = [200, 300]\n"))
    assert (spec.resize, spec.crop, spec.shape) == ((200, 300), None, (3, 200, 300))


def test_a_crop_that_does_not_fit_what_the_weights_say_is_told_in_words(tmp_path):
    with pytest.raises(ConfigurationError) as raised:
        resolved_input(folder(tmp_path, CARD + "[input]\ncrop = 240\n"))
    assert str(raised.value).endswith(
        "model.toml: input: crop = 240 is larger than resize = 232; the crop must fit in it"
    )
