"""Tensors that clients send, as a module takes them: by name where it has one, in its dtype, with its batch axis."""

import pytest
import torch
from torch import nn

from service.signature import TensorSpec
from service.tasks.adapters.plain import Plain


class Taking(nn.Module):
    def forward(self, history, *, mask):
        return history, mask


class Positional(nn.Module):
    def forward(self, a, b, /):
        return a, b


class Anything(nn.Module):
    def forward(self, *arrays, **more):
        return arrays, more


SPECS = TensorSpec("mask", "bool", (3,)), TensorSpec("history", "float32", (3, 2)), TensorSpec("x", "int64")
ARRAYS = torch.ones(2, 3, dtype=torch.bool), torch.zeros(2, 3, 2), torch.tensor([7, 8])


def test_an_input_goes_in_by_the_name_that_forward_has_and_else_in_the_cards_order():
    positional, by_name = Plain(SPECS, Taking()).forward(*ARRAYS)
    assert {name: tensor.shape for name, tensor in by_name.items()} == {"mask": (2, 3), "history": (2, 3, 2)}
    assert [tensor.tolist() for tensor in positional] == [[7, 8]]


@pytest.mark.parametrize(
    "module", [Positional(), Anything(), nn.Sequential(nn.ReLU())], ids=lambda each: type(each).__name__
)
def test_where_forward_has_no_such_names_the_cards_order_counts(module):
    positional, by_name = Plain(SPECS[:2], module).forward(*ARRAYS[:2])
    assert by_name == {}
    assert [tensor.shape for tensor in positional] == [(2, 3), (2, 3, 2)]


def test_a_forward_that_python_cannot_describe_takes_the_cards_order():
    module = Taking()
    module.forward = min  # built in, without a signature
    positional, by_name = Plain(SPECS, module).forward(*ARRAYS)
    assert (len(positional), by_name) == (3, {})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_floats_come_in_what_the_module_computes_in(dtype):
    preparation = Plain([TensorSpec("x", dtype, (2,))], nn.ReLU())
    preparation.dtype = torch.bfloat16
    ([argument], _) = preparation.forward(torch.ones(1, 2, dtype=getattr(torch, dtype)))
    assert argument.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64"])
def test_integers_and_booleans_come_as_they_are(dtype):
    preparation = Plain([TensorSpec("x", dtype, (2,))], nn.ReLU())
    preparation.dtype = torch.bfloat16
    array = torch.ones(1, 2, dtype=getattr(torch, dtype))
    ([argument], _) = preparation.forward(array)
    assert argument is array


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_the_batch_is_put_where_the_module_has_it(dtype):
    preparation = Plain([TensorSpec("x", dtype, (5, 3), batch_axis=1)], nn.ReLU())
    array = torch.arange(30).reshape(2, 5, 3).to(getattr(torch, dtype))
    ([argument], _) = preparation.forward(array)
    assert argument.shape == (5, 2, 3)
    assert torch.equal(argument[:, 1], array[1])


def test_only_floats_of_four_axes_take_the_layout():
    preparation = Plain(
        [
            TensorSpec("a", "float32", (2, 4, 4)),
            TensorSpec("b", "float32", (4, 4)),
            TensorSpec("c", "uint8", (2, 4, 4)),
        ],
        nn.ReLU(),
    )
    preparation.memory_format = torch.channels_last
    (a, b, c), _ = preparation.forward(torch.ones(2, 2, 4, 4), torch.ones(2, 4, 4), torch.ones(2, 2, 4, 4).byte())
    assert a.is_contiguous(memory_format=torch.channels_last)
    assert (b.is_contiguous(), c.is_contiguous()) == (True, True)


@pytest.mark.parametrize(("shape", "has"), [((2, 4, 4), True), ((4, 4), False), ((), False)])
def test_a_layout_makes_a_difference_where_a_batch_has_four_axes(shape, has):
    assert Plain([TensorSpec("x", "float32", shape)], nn.ReLU()).has_layouts is has


def test_its_examples_are_those_of_its_inputs():
    found = Plain(SPECS, Taking()).examples(4)
    assert [(array.dtype, array.shape) for array in found] == [
        (torch.bool, (4, 3)),
        (torch.float32, (4, 3, 2)),
        (torch.int64, (4,)),
    ]
    assert Plain(SPECS, Taking()).real_examples(4) is None
