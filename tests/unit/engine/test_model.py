"""What answers for a served model, and under which key its proof is kept."""

import pytest
import torch

from service.engine import staging
from service.engine.cache_keys import package_key, proof_key
from service.engine.guard import PackageGuard, WeightsGuard
from service.engine.model import ServedModel
from service.loader.compiled import Package
from service.loader.load import load
from service.loader.repository import find_models
from service.loader.tuning import Tuning
from tests.support.models import make_models
from tests.support.tensor_models import make_tensor_models
from tests.support.tiny import CLASSES, tiny

#: Gives an input back as it came.
ECHO = """\
from torch import nn


class Echo(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, state, x):
        return {"state": state, "scores": self.layer(x)}
"""
ECHO_CARD = """\
task = "tensor"
weights = "random:1"
architecture = "architecture:Echo"
[inputs.x]
shape = [3]
[inputs.state]
dtype = "int16"
shape = []
"""


@pytest.fixture
def model(tmp_path):
    folder = tiny(tmp_path)
    return ServedModel(load(folder), torch.device("cpu"))


@pytest.fixture
def of_tensors(tmp_path):
    """Makes a served model of tensors, by its name in tests/support/tensor_models.py."""

    def make(name):
        folder = find_models(make_tensor_models(tmp_path, name))[name]
        return ServedModel(load(folder), torch.device("cpu"))

    return make


@pytest.fixture
def package():
    return Package(lambda arrays: (torch.full((len(arrays[0]), CLASSES), 7.0),), 1)


def answer(model):
    with torch.inference_mode():
        (scores,) = model.run_batch((torch.zeros(1, *model.loaded.input.shape, dtype=torch.uint8),))
        return scores[0, 0].item()


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


@pytest.mark.parametrize(
    ("room", "cap", "sizes"), [(240, 2, [1, 2]), (120, 1, [1]), (1, 1, [1]), (960, 8, [1, 2, 4, 8])]
)
def test_a_batch_is_never_larger_than_a_slot_has_room_for(of_tensors, monkeypatch, room, cap, sizes):
    monkeypatch.setattr(staging, "MOST_SLOT_BYTES", room)
    model = of_tensors("breast_cancer")  # whose examples have 120 bytes
    assert (model.cap, model.sizes) == (cap, sizes)


def test_what_is_run_for_nobody_is_made_up_examples_and_not_zeros(of_tensors):
    model = of_tensors("recommender")
    found = model.staging.as_it_is(model.cap)
    assert [array.shape for array in found] == [(model.cap,), (model.cap, 20)]
    assert all(torch.equal(*pair) for pair in zip(found, model.examples(model.cap), strict=True))
    assert all(array.unique().numel() > 1 for array in found)


def test_a_batch_gives_every_output_and_what_leaves_is_its_signature(of_tensors):
    model = of_tensors("three")
    with torch.inference_mode():
        results, faults = model.results(model.run_batch(model.examples(3)))
    assert [spec.name for spec in model.signature.outputs] == ["embedding", "best", "score"]
    assert [(3, *spec.shape) for spec in model.signature.outputs] == [result.shape for result in results]
    assert [spec.dtype for spec in model.signature.outputs] == [str(r.dtype).removeprefix("torch.") for r in results]
    assert not faults


def test_a_model_that_gives_an_input_back_is_not_caught_whichever_slot_that_came_in(tmp_path):
    make_models(tmp_path, echo=ECHO_CARD)
    (tmp_path / "echo" / "architecture.py").write_text(ECHO)
    model = ServedModel(load(find_models(tmp_path)["echo"]), torch.device("cpu"))
    with torch.inference_mode():
        guard = model.guard()
        for slot, state in ((0, 7), (1, 8)):
            blocks = [
                torch.full(shape, state, dtype=dtype) for shape, dtype in (((3,), torch.float32), ((), torch.int16))
            ]
            part = [block.reshape(-1).view(torch.uint8).numpy().data for block in blocks]
            outputs = model.run_batch(model.staging.collate([part], slot))
            guard.look(outputs)
            results, _ = model.results(outputs)
            assert results[[spec.name for spec in model.signature.outputs].index("state")].tolist() == [state]
