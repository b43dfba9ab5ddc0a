"""The outputs in whatever a forward returns, under their names, the batch first."""

import dataclasses
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch

from service.errors import ModelOutputInvalid
from service.tasks.adapters.flattening import Flattening, key_of_scores, named_outputs, said_of, scores_of

A, B = torch.arange(6.0).reshape(2, 3), torch.arange(4).reshape(2, 2)


@dataclasses.dataclass
class Output:
    """As libraries return: some of its fields are left out, some are not tensors."""

    logits: object = None
    hidden: object = None
    loss: object = None


class ModelOutput(OrderedDict):
    """A dict whose entries are attributes too, as Hugging Face has it."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


Named = namedtuple("Named", "scores mask")
RETURNED = {
    "a tensor": (A, {"output": None}),
    "a tuple": ((A, B), {"output_0": 0, "output_1": 1}),
    "a tuple of one": ((A,), {"output_0": 0}),
    "a list with something else between": ([A, "x", None, B], {"output_0": 0, "output_3": 3}),
    "a dict": ({"b": B, "a": A}, {"b": "b", "a": "a"}),
    "a dict with numbers for keys": ({0: A, 1: B}, {"0": 0, "1": 1}),
    "a dict with something else": ({"a": A, "names": ["x"], "none": None}, {"a": "a"}),
    "a ModelOutput": (ModelOutput(logits=A, mask=B), {"logits": "logits", "mask": "mask"}),
    "a dataclass": (Output(A, hidden=B), {"logits": "logits", "hidden": "hidden"}),
    "a dataclass with a tuple in it": (Output(A, hidden=(A, B)), {"logits": "logits"}),
    "a named tuple": (Named(A, B), {"scores": "scores", "mask": "mask"}),
    "an object": (SimpleNamespace(y=A, size=3), {"y": "y"}),
    "nothing": (None, {}),
    "a number": (3, {}),
    "an empty dict": ({}, {}),
}


@pytest.mark.parametrize("name", RETURNED)
def test_tensors_are_found_by_name(name):
    returned, keys = RETURNED[name]
    found = named_outputs(returned)
    assert {each: key for each, (key, _) in found.items()} == keys
    assert all(isinstance(tensor, torch.Tensor) for _, tensor in found.values())


@pytest.mark.parametrize("name", [name for name, (_, keys) in RETURNED.items() if keys])
def test_what_was_found_once_is_found_again_by_its_key(name):
    returned, _ = RETURNED[name]
    found = named_outputs(returned)
    outputs = Flattening([key for key, _ in found.values()], [0] * len(found)).outputs(returned)
    assert [each.data_ptr() for each in outputs] == [tensor.data_ptr() for _, tensor in found.values()]


def test_outputs_come_in_the_order_that_was_asked_for():
    first, second = Flattening(["b", "a"], [0, 0]).outputs({"a": A, "b": B})
    assert (first is B, second is A) == (True, True)


def test_the_batch_comes_first_wherever_it_is():
    first, second = Flattening([0, 1], [0, 1]).outputs((A, torch.zeros(5, 2, 7)))
    assert (first.shape, second.shape) == ((2, 3), (2, 5, 7))
    assert torch.equal(Flattening([None], [1]).outputs(A)[0], A.T)


@pytest.mark.parametrize(
    ("key", "returned", "words"),
    [
        ("y", {"a": A, "b": B}, "The model returned dict of a, b, none of them called logits, without 'y'."),
        ("y", A, "The model returned (2, 3), without 'y'."),
        ("y", Output(), "The model returned Output of logits, hidden, loss, none of them called logits, without 'y'."),
        ("y", None, "The model returned NoneType, without 'y'."),
        (2, (A, B), "The model returned tuple, without 2."),
        (0, None, "The model returned NoneType, without 0."),
        ("logits", Output(), "The model returned NoneType where it must return a tensor."),
        (None, (A,), "The model returned tuple where it must return a tensor."),
    ],
)
def test_an_output_that_is_not_there_is_told(key, returned, words):
    with pytest.raises(ModelOutputInvalid) as caught:
        Flattening([key], [0]).outputs(returned)
    assert caught.value.detail == words


@pytest.mark.parametrize(
    ("returned", "key"),
    [
        ({"features": B, "logits": A}, "logits"),
        ({"out": A}, "out"),
        ({"out": A, "names": ["x"]}, "out"),
        ({"boxes": A, "scores": B}, None),
        ({}, None),
        (Output(A, hidden=B), "logits"),
        (Output(None, hidden=B), None),
        (ModelOutput(logits=A, loss=B), "logits"),
        (Named(A, B), None),
        ((A,), None),
        (None, None),
    ],
)
def test_scores_are_known_by_their_name_or_by_being_alone(returned, key):
    assert key_of_scores(returned) == key
    assert scores_of(returned) is (returned if key is None else A)


def test_a_tensor_is_its_own_scores():
    assert scores_of(A) is A


def test_what_was_returned_is_described():
    assert said_of(A) == "(2, 3)"
    assert said_of({"a": A}) == "dict"
    assert said_of((A, B)) == "tuple"
