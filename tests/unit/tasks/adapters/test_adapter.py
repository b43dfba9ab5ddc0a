"""A module between its preparation and its head: flat, positional, and held to what it gave at the start."""

import pytest
import torch
from torch import nn

from service.errors import ModelOutputInvalid
from service.signature import Signature, TensorSpec
from service.tasks.adapters.adapter import Adapter
from service.tasks.adapters.flattening import Flattening
from service.tasks.adapters.heads import TensorsHead, ValuesHead
from service.tasks.adapters.plain import Plain

INPUTS = TensorSpec("b", "int64"), TensorSpec("a", "float32", (3,), batch_axis=1)
RAW = TensorSpec("y", "float32", (3,), batch_axis=1), TensorSpec("n", "int64")


class Net(nn.Module):
    """Takes its second input with the batch behind, and gives its first output so."""

    def forward(self, a, b):
        assert a.shape == (3, len(b))
        return {"n": b + 1, "left": "out", "y": a * b}


def adapter(head=TensorsHead):
    module = Net()
    return Adapter(module, Plain(INPUTS, module), Flattening(["y", "n"], [1, 0]), RAW, head(RAW))


def test_arrays_go_in_by_their_order_and_outputs_come_out_by_theirs():
    y, n = adapter()(torch.tensor([2, 3]), torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    assert y.tolist() == [[2, 4, 6], [12, 15, 18]]
    assert n.tolist() == [3, 4]


def test_a_signature_has_what_goes_in_and_what_leaves():
    assert adapter().signature == Signature(INPUTS, RAW)
    assert adapter(ValuesHead).signature == Signature(INPUTS, (TensorSpec("values", "float32", (3,)),))
    assert adapter().shapes == ((), (3,))


def test_it_is_in_eval_mode_with_all_that_it_holds():
    assert not any(part.training for part in adapter().modules())


RIGHT = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)


def test_outputs_as_they_were_at_the_start_are_right():
    adapter().check(RIGHT, 2)


@pytest.mark.parametrize(
    ("place", "output", "words"),
    [
        (
            0,
            torch.zeros(1, 3),
            "The model returned float32 of shape (1, 3) as y for 2 examples; it must return float32",
        ),
        (
            0,
            torch.zeros(2, 4),
            "The model returned float32 of shape (2, 4) as y for 2 examples; it must return float32",
        ),
        (0, torch.zeros(2, 3, 1), "The model returned float32 of shape (2, 3, 1) as y for 2 examples; it must return"),
        (0, torch.zeros(2, 3).half(), "The model returned float16 of shape (2, 3) as y for 2 examples; it must return"),
        (1, torch.tensor(3), "The model returned one int64 as n for 2 examples; it must return int64 of shape (2,)."),
        (1, torch.zeros(2).int(), "The model returned int32 of shape (2,) as n for 2 examples; it must return int64"),
    ],
)
def test_an_output_of_another_shape_or_dtype_is_refused_by_its_name(place, output, words):
    outputs = list(RIGHT)
    outputs[place] = output
    with pytest.raises(ModelOutputInvalid) as caught:
        adapter().check(outputs, 2)
    assert caught.value.detail.startswith(words)
