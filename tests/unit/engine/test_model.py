"""What answers for a served model, and under which key its proof is kept."""

import pytest
import torch

from service.engine.cache_keys import package_key, proof_key
from service.engine.guard import PackageGuard, WeightsGuard
from service.engine.model import ServedModel
from service.loader.compiled import Package
from service.loader.load import load
from service.loader.tuning import Tuning
from tests.support.tiny import CLASSES, tiny


@pytest.fixture
def model(tmp_path):
    folder = tiny(tmp_path)
    return ServedModel(load(folder), folder.card, torch.device("cpu"))


@pytest.fixture
def package():
    return Package(lambda pixels: torch.full((len(pixels), CLASSES), 7.0), 1)


def answer(model):
    with torch.inference_mode():
        return model.run_batch(torch.zeros(1, *model.loaded.input.shape, dtype=torch.uint8))[0, 0].item()


def test_a_package_answers_on_trial_and_the_module_after_it(model, package):
    eager = answer(model)
    with model.on_trial(package):
        assert answer(model) == 7
    assert answer(model) == eager
    assert model.package is None


def test_to_lay_the_module_out_anew_is_to_answer_with_it(model, package):
    eager = answer(model)
    model.run_package(package, "a" * 64)
    model.apply(Tuning("channels_last", 1))
    assert (model.package, model.forward.threads) == (None, 1)
    assert answer(model) == pytest.approx(eager)


def test_the_proof_of_each_package_is_kept_under_a_key_of_its_own(model, package):
    assert proof_key(model, 1) == package_key(model, 1)
    model.run_package(package, "a" * 64)
    assert proof_key(model, 1) == f"{package_key(model, 1)}-{'a' * 12}"


def test_whatever_answers_is_what_the_guard_watches(model, package):
    with torch.inference_mode():
        assert isinstance(model.guard(), WeightsGuard)
        model.run_package(package, "a" * 64)
        assert isinstance(model.guard(), PackageGuard)
    assert not list(model.module.parameters())
