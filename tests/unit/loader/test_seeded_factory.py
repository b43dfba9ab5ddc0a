"""`weights = "factory"`: what the factory made is served as it is, and what it drew by chance is told."""

import torch

from service.loader.load import load
from tests.support.tiny import tiny, tiny_at

#: A factory that brings weights from a file beside it, as Lightning's `load_from_checkpoint` would.
TRAINED = """\
from pathlib import Path

import torch
from torch import nn


def tiny():
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, 5))
    model.load_state_dict(torch.load(Path(__file__).parent / "weights.pth"))
    {}
    return model
"""


def factory_folder(root, also="", state=None):
    path = tiny_at(root, "factory", code=TRAINED.format(also))
    torch.save(state or trained(), path / "weights.pth")
    return tiny(root)


def trained(seed=3):
    generator = torch.Generator().manual_seed(seed)
    return {"2.weight": torch.randn(5, 12, generator=generator), "2.bias": torch.randn(5, generator=generator)}


def test_a_trained_head_stays_bit_for_bit(tmp_path):
    loaded = load(factory_folder(tmp_path))
    assert all(torch.equal(loaded.module.state_dict()[key], tensor) for key, tensor in trained().items())
    assert loaded.findings == ()


def test_the_version_covers_the_weights_that_the_factory_brought(tmp_path):
    one = load(factory_folder(tmp_path / "one")).version
    assert load(factory_folder(tmp_path / "same")).version == one
    assert load(factory_folder(tmp_path / "other", state=trained(4))).version != one


def test_what_the_factory_draws_by_chance_is_named_and_is_the_same_in_every_process(tmp_path):
    folder = factory_folder(tmp_path, also="model[2] = nn.Linear(12, 5)")
    loaded = load(folder)
    (finding,) = loaded.findings
    assert (finding.name, finding.level) == ("untrained", "warning")
    assert finding.detail.startswith("The factory draws 2 of 2 tensors by chance (2.weight, 2.bias); ")
    torch.manual_seed(12345)
    assert load(folder).seal == loaded.seal


def test_loading_leaves_the_generator_of_the_process_as_it_was(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load(factory_folder(tmp_path, also="nn.Linear(2, 2)"))
    assert torch.equal(torch.rand(1), expected)


def test_random_weights_are_told_to_mean_nothing(tmp_path):
    tiny_at(tmp_path, "random:7")
    (finding,) = load(tiny(tmp_path)).findings
    assert finding.detail == 'With weights = "random:7" the model is untrained, so its answers mean nothing.'
