"""Models of tensors are exported whole, and their packages answer what the module does, for batches of every size."""

import pytest
import torch

from service.compiler.compile import agreement
from service.engine.forwards import on_device
from service.engine.model import ServedModel
from service.loader import openvino
from service.loader.compiled import export
from service.loader.load import load
from service.loader.proof import tolerance_of
from service.loader.repository import find_models
from tests.support.tensor_models import CARDS, make_tensor_models

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return find_models(make_tensor_models(tmp_path_factory.mktemp("tensors") / "models"))


@pytest.mark.parametrize("name", CARDS)
def test_a_package_agrees_with_the_module_and_passes_the_proof(folders, tmp_path, name):
    torch.set_num_threads(1)
    model = ServedModel(load(folders[name]), CPU)
    target = model.target()
    program = export(model.adapter, on_device(model.examples(2), CPU), target)
    openvino.build(program, tmp_path / "package", target)
    package = openvino.load(tmp_path / "package", target)
    with torch.inference_mode():
        assert agreement(model, package, model.examples(model.cap)).difference <= tolerance_of(model.module)
        with model.on_trial(package):
            report = model.check(model.sizes)
    assert report.passed, report.refusal
