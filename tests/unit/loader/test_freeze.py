"""A frozen module is a pure function, and its name changes when anything of it does."""

import re

import pytest
import torch
from torch import nn

from service.loader.card import Card
from service.loader.freeze import freeze, memory_bytes, seal, version

CARD = Card(weights="random:1", architecture="architecture:tiny")


class Nested(nn.Module):
    """One of each: convolution, normalisation with buffers, dropout, modules inside modules, a buffer of its own."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Dropout(0.5)))
        self.head = nn.Linear(4, 2)
        self.register_buffer("scale", torch.tensor([1.0, 2.0]))
        self.register_buffer("hidden", torch.tensor(True), persistent=False)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3))) * self.scale


def nested():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Nested()


def test_freezing_puts_every_module_in_eval_mode():
    module = nested().train()
    freeze(module)
    assert [name for name, part in module.named_modules() if part.training] == []


def test_freezing_takes_the_gradient_from_every_parameter():
    module = nested()
    freeze(module)
    assert [name for name, parameter in module.named_parameters() if parameter.requires_grad] == []


def test_a_frozen_module_gives_the_same_answer_each_time_and_learns_nothing():
    module = nested()
    freeze(module)
    before, picture = seal(module), torch.rand(2, 3, 8, 8)
    assert torch.equal(module(picture), module(picture))
    assert seal(module) == before


def test_a_seal_is_64_hex_digits_and_the_same_for_the_same_weights():
    assert re.fullmatch("[0-9a-f]{64}", seal(nested()))
    assert seal(nested()) == seal(nested())


@pytest.mark.parametrize("name", [name for name, _ in [*nested().named_parameters(), *nested().named_buffers()]])
def test_a_seal_changes_with_one_element_of_any_parameter_or_buffer(name):
    module = nested()
    before = seal(module)
    tensor = dict([*module.named_parameters(), *module.named_buffers()])[name]
    with torch.no_grad():
        last = tensor.view(-1)[-1]
        last.copy_(~last if tensor.dtype == torch.bool else last + 1)
    assert seal(module) != before


def test_a_seal_changes_with_the_lowest_bit_of_a_weight():
    module = nn.Linear(2, 2)
    before = seal(module)
    with torch.no_grad():
        module.weight.view(torch.int32)[0, 0] ^= 1
    assert seal(module) != before


def test_a_seal_changes_with_a_name():
    layer = nn.Linear(2, 2)
    assert seal(nn.ModuleDict({"head": layer})) != seal(nn.ModuleDict({"tail": layer}))


def test_a_seal_changes_when_two_weights_swap_their_names():
    module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    assert seal(module) != seal(nn.Sequential(module[1], module[0]))


def test_a_seal_changes_with_the_dtype_of_equal_bytes():
    module = nn.Module()
    module.register_buffer("zeros", torch.zeros(4, dtype=torch.float32))
    before = seal(module)
    module.zeros = torch.zeros(4, dtype=torch.int32)
    assert seal(module) != before


def test_a_seal_changes_with_the_shape_of_equal_bytes():
    module = nn.Module()
    module.register_buffer("zeros", torch.zeros(4))
    before = seal(module)
    module.zeros = torch.zeros(2, 2)
    assert seal(module) != before


def test_a_seal_does_not_change_with_the_memory_format():
    module = nested()
    before = seal(module)
    module.to(memory_format=torch.channels_last)
    assert not module.features[0].weight.is_contiguous()
    assert seal(module) == before


def test_a_seal_does_not_change_with_the_order_in_which_parts_were_added():
    one, other = nn.Module(), nn.Module()
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    one.first, one.second = first, second
    other.second, other.first = second, first
    assert seal(one) == seal(other)


def test_a_seal_does_not_change_by_freezing():
    module = nested()
    before = seal(module)
    freeze(module)
    assert seal(module) == before


def test_tied_weights_are_sealed_under_both_names():
    tied, apart = (nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)) for _ in range(2))
    tied[1].weight = tied[0].weight
    apart.load_state_dict(tied.state_dict())
    assert seal(tied) == seal(apart)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64, torch.int8, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3,)])
def test_tensors_of_any_dtype_and_shape_are_sealed(dtype, shape):
    module = nn.Module()
    module.register_buffer("zeros", torch.zeros(shape, dtype=dtype))
    assert re.fullmatch("[0-9a-f]{64}", seal(module))


def test_a_version_is_12_hex_digits_and_the_same_for_the_same_model():
    assert re.fullmatch("[0-9a-f]{12}", version("00", CARD, ["a"], b"code"))
    assert version("00", CARD, ["a"], b"code") == version("00", CARD.model_copy(), ["a"], b"code")


@pytest.mark.parametrize(
    "changed",
    [
        ("01", CARD, ["a", "b"], b"code"),
        ("00", CARD.model_copy(update={"classifier": "fc"}), ["a", "b"], b"code"),
        ("00", CARD, ["a", "c"], b"code"),
        ("00", CARD, ["b", "a"], b"code"),
        ("00", CARD, ["a", "b"], b"Code"),
    ],
    ids=["seal", "card", "a label", "the order of labels", "code"],
)
def test_a_version_changes_with(changed):
    assert version(*changed) != version("00", CARD, ["a", "b"], b"code")


def test_a_version_knows_where_labels_end_and_code_begins():
    assert version("00", CARD, ["a"], b"b\nc") != version("00", CARD, ["a", "b"], b"c")


def test_memory_is_counted_in_bytes_of_parameters_and_of_buffers():
    module = nn.BatchNorm1d(10)
    assert memory_bytes(module) == {"parameters": 2 * 10 * 4, "buffers": 2 * 10 * 4 + 8}


def test_tied_weights_count_once():
    module = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))
    module[1].weight = module[0].weight
    assert memory_bytes(module)["parameters"] == 400


def test_parameters_that_are_views_of_one_memory_count_once():
    module, memory = nn.Module(), torch.zeros(100)
    module.first, module.second = nn.Parameter(memory[:50]), nn.Parameter(memory[50:])
    assert memory_bytes(module)["parameters"] == 400


def test_a_buffer_that_shares_a_parameters_memory_costs_nothing_more():
    module = nn.Linear(10, 10, bias=False)
    module.register_buffer("same", module.weight.detach())
    assert memory_bytes(module) == {"parameters": 400, "buffers": 0}
