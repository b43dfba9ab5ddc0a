"""The outputs of a tensor model: what forwards at the start return, by name; or what its card promises of them."""

import pytest
import torch

from service.errors import ConfigurationError
from service.loader.load import load
from service.signature import TensorSpec
from tests.support.models import make_models
from tests.support.tiny import tiny

CODE = """\
import dataclasses
from collections import OrderedDict

import torch
from torch import nn


@dataclasses.dataclass
class Output:
    loss: object = None
    logits: object = None
    mask: object = None


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 5)

    def forward(self, x, ids):
        y = self.last(x)
        n = ids.argmax(1)
        return RETURNED


def tiny():
    return Net()
"""
CARD = """\
task = "tensor"
weights = "random:1"
architecture = "architecture:tiny"
{lines}
[inputs.x]
shape = [3]
[inputs.ids]
dtype = "int64"
shape = [4]
range = [0, 99]
{outputs}
"""


def folder(root, returned, outputs="", lines=""):
    make_models(root, tiny=CARD.format(outputs=outputs, lines=lines))
    (root / "tiny" / "architecture.py").write_text(CODE.replace("RETURNED", returned))
    return tiny(root)


def found(root, returned, outputs="", lines=""):
    return load(folder(root, returned, outputs, lines)).adapter


def refused(root, returned, outputs=""):
    with pytest.raises(ConfigurationError) as caught:
        load(folder(root, returned, outputs))
    [problem] = caught.value.problems
    return problem.removeprefix(f"{root / 'tiny' / 'model.toml'}: ")


Y, N = ("float32", (5,)), ("int64", ())
FOUND = {
    "a tensor": ("y", {"output": Y}),
    "a tuple": ("y, n", {"output_0": Y, "output_1": N}),
    "a list": ("[n, y]", {"output_0": N, "output_1": Y}),
    "a dict": ("{'b': n, 'a': y}", {"b": N, "a": Y}),
    "a dict of other things too": ("{'a': y, 'names': ['x'], 'hidden': (y, y)}", {"a": Y}),
    "a dataclass": ("Output(logits=y, mask=y > 0)", {"logits": Y, "mask": ("bool", (5,))}),
    "several axes": ("x[:, None, :, None] * ids[:, None, None, :]", {"output": ("float32", (1, 3, 4))}),
    "a view of its input": ("ids", {"output": ("int64", (4,))}),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_forward_returns_is_found_by_name(tmp_path, name):
    returned, outputs = FOUND[name]
    adapter = found(tmp_path, returned)
    assert adapter.raw == tuple(TensorSpec(key, *spec) for key, spec in outputs.items())
    assert adapter.signature.outputs == adapter.raw
    assert [spec.name for spec in adapter.signature.inputs] == ["x", "ids"]
    with torch.inference_mode():
        adapter.check(adapter(*adapter.preparation.examples(7)), 7)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_an_axis_that_is_as_long_as_a_batch_by_chance_stays(tmp_path, count):
    adapter = found(tmp_path, f"y[:, :1].expand(-1, {count})")
    assert adapter.raw[0].shape == (count,)


def test_what_a_model_computes_in_is_the_dtype_of_what_it_gives(tmp_path):
    assert found(tmp_path, "y, n", lines='dtype = "bfloat16"').raw == (
        TensorSpec("output_0", "bfloat16", (5,)),
        TensorSpec("output_1", "int64", ()),
    )


def declared(name, shape, *more):
    return "\n".join([f"[outputs.{name}]", f"shape = {shape}", *more])


def test_only_declared_outputs_leave_and_in_the_cards_order(tmp_path):
    outputs = declared("n", [], 'dtype = "int64"') + "\n" + declared("y", [5])
    adapter = found(tmp_path, "{'hidden': x, 'y': y, 'n': n, 'loss': y.sum()}", outputs)
    assert [spec.name for spec in adapter.raw] == ["n", "y"]
    with torch.inference_mode():
        n, y = adapter(*adapter.preparation.examples(2))
    assert (n.shape, y.shape) == ((2,), (2, 5))


@pytest.mark.parametrize("returned", ["(y, n)", "[y, n, x]", "y"])
def test_what_has_no_names_gets_the_cards_in_their_order(tmp_path, returned):
    adapter = found(tmp_path, returned, declared("scores", [5]))
    assert adapter.raw == (TensorSpec("scores", "float32", (5,)),)


def test_what_a_card_says_beyond_shapes_is_kept(tmp_path):
    adapter = found(tmp_path, "y.T", declared("y", [5], "batch_axis = 1", "finite = false"))
    assert adapter.raw == (TensorSpec("y", "float32", (5,), 1, finite=False),)
    with torch.inference_mode():
        (y,) = adapter(*adapter.preparation.examples(2))
    assert y.shape == (2, 5)


REFUSED = {
    "an output without the batch": (
        "{'y': y, 'mean': y.mean(0)}",
        "outputs.mean: is float32 of shape (5,) for 2 examples, without the batch along axis 0; return one row for "
        "each example, such as output.expand(len(x), ...), or declare other outputs only",
    ),
    "a number for all": (
        "y.sum()",
        "outputs.output: is one float32 for 2 examples, without the batch along axis 0; return one row for "
        "each example, such as output.expand(len(x), ...), or declare other outputs only",
    ),
    "the batch on another axis": (
        "y.T",
        "outputs.output: is float32 of shape (5, 2) for 2 examples, without the batch along axis 0; set batch_axis = 1 "
        "under [outputs.NAME]",
    ),
    "the first example alone": (
        "y[:1]",
        "outputs.output: is float32 of shape (1, 5) for 2 examples, without the batch along axis 0; return one row for "
        "each example, such as output.expand(len(x), ...), or declare other outputs only",
    ),
    "each with each": (
        "y @ y.T",
        "outputs.output: is (2, 2) for 2 examples and (3, 3) for 3; each example must have an output of one fixed "
        "shape",
    ),
    "two axes more for a larger batch": (
        "y if len(x) < 3 else y[..., None]",
        "outputs.output: is (2, 5) for 2 examples and (3, 5, 1) for 3; each example must have an output of one fixed "
        "shape",
    ),
    "an output of some batches": (
        "{'y': y, **({'n': n} if len(x) == 2 else {})}",
        "outputs.n: is returned for 2 examples and not for 3; return the same outputs for every batch",
    ),
    "nothing": ("None", "architecture: forward returned NoneType; it must return tensors"),
    "no tensor": ("{'names': ['x']}", "architecture: forward returned dict; it must return tensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_output_that_cannot_be_is_refused_with_the_fix(tmp_path, name):
    returned, words = REFUSED[name]
    assert refused(tmp_path, returned) == words


def test_the_advice_about_the_batch_helps(tmp_path):
    assert "batch_axis = 1" in refused(tmp_path / "without", "y.T")
    assert found(tmp_path / "with", "y.T", declared("output", [5], "batch_axis = 1")).raw[0].shape == (5,)


DECLARED = {
    "another dtype": (
        declared("y", [5], 'dtype = "float64"'),
        "outputs.y: is float32 of shape (5,) for one example, and the card says float64 of shape (5,); correct "
        "the card",
    ),
    "another shape": (
        declared("y", [6]),
        "outputs.y: is float32 of shape (5,) for one example, and the card says float32 of shape (6,); correct "
        "the card",
    ),
    "a name that is not there": (
        declared("z", [5]),
        "outputs.z: forward returned y, n and not this; name one of those, or leave [outputs] out",
    ),
    "the batch elsewhere": (
        declared("y", [5], "batch_axis = 1"),
        "outputs.y: is float32 of shape (2, 5) for 2 examples, without the batch along axis 1; set batch_axis = 0 "
        "under [outputs.NAME]",
    ),
}


@pytest.mark.parametrize("name", DECLARED)
def test_what_a_card_promises_is_held_against_what_is_found(tmp_path, name):
    outputs, words = DECLARED[name]
    assert refused(tmp_path, "{'y': y, 'n': n}", outputs) == words


@pytest.mark.parametrize(("returned", "there"), [("y", "1 tensor"), ("(y,)", "1 tensor")])
def test_more_outputs_than_there_are_is_refused(tmp_path, returned, there):
    outputs = declared("a", [5]) + "\n" + declared("b", [5])
    words = f"outputs.b: forward returned {there} and not this; declare no more than those"
    assert refused(tmp_path, returned, outputs) == words


def test_a_forward_that_fails_is_told_with_its_inputs_by_name(tmp_path):
    problem = refused(tmp_path, "self.last(ids)")
    assert problem.startswith("architecture: forward of x (8, 3), ids (8, 4) raised RuntimeError: ")


def test_the_forwards_are_run_frozen_and_without_a_graph(tmp_path):
    returned = "y if torch.is_inference_mode_enabled() and not self.training else None"
    assert found(tmp_path, returned).raw[0].shape == (5,)


def test_inputs_of_the_first_forward_are_within_their_range(tmp_path):
    """A classifier of ids that begin at 10 may have no row for 0."""
    card = CARD.format(outputs="", lines="").replace('task = "tensor"', 'task = "classification"')
    make_models(tmp_path, tiny=card.replace("[0, 99]", "[10, 19]"))
    code = CODE.replace("RETURNED", "y if (ids >= 10).all() and (ids < 20).all() else None")
    (tmp_path / "tiny" / "architecture.py").write_text(code)
    assert load(tiny(tmp_path)).adapter.raw[0].shape == (5,)
