"""The scores that a model gives among other things, such as Hugging Face's, are what is frozen, proven and exported."""

import pytest
import torch

from service.engine.model import ServedModel
from service.errors import ConfigurationError
from service.loader.compiled import export
from service.loader.load import load
from tests.support.tiny import tiny, tiny_at

CODE = """\
import dataclasses
from collections import OrderedDict, namedtuple

from torch import nn


@dataclasses.dataclass
class ClassifierOutput:
    loss: object = None
    logits: object = None
    hidden_states: object = None


@dataclasses.dataclass
class Pooled:
    last_hidden_state: object
    pooler_output: object


class ModelOutput(OrderedDict):
    \"\"\"A dict whose entries are attributes too, without those that are None.\"\"\"

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


Named = namedtuple("Named", "logits aux")


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(12, 5)

    def forward(self, x):
        y = self.last(nn.functional.avg_pool2d(x, 4).flatten(1))
        return {}


def tiny():
    return Tiny()
"""
STATE = {"last.weight": torch.randn(5, 12, generator=torch.Generator().manual_seed(0)), "last.bias": torch.zeros(5)}
TAKEN = {
    "a dataclass": "ClassifierOutput(logits=y, hidden_states=(x, x))",
    "Hugging Face's": "ModelOutput(loss=y.sum(), logits=y, hidden_states=(x, x))",
    "a named tuple": "Named(y, x)",
    "a dict": "{'features': x, 'logits': y}",
    "a dict of one tensor": "OrderedDict(out=y)",
    "a dict of one tensor and more": "{'out': y, 'names': ['a']}",
}


def folder(root, returned, *lines):
    path = tiny_at(root, "file:weights.pth", *lines, code=CODE.replace("return {}", f"return {returned}"))
    torch.save(STATE, path / "weights.pth")
    return tiny(root)


@pytest.mark.parametrize("name", TAKEN)
def test_the_scores_are_taken_proven_and_exported(tmp_path, name):
    plain, made = load(folder(tmp_path / "plain", "y")), folder(tmp_path / "made", TAKEN[name])
    loaded = load(made)
    assert loaded.adapter.raw[0].shape == (5,)
    assert not any(part.training for part in loaded.module.modules())
    pictures = loaded.adapter.preparation.examples(2)
    with torch.inference_mode():
        (scores,), (expected,) = loaded.adapter(*pictures), plain.adapter(*pictures)
        assert torch.equal(scores, expected)
    served = ServedModel(loaded, torch.device("cpu"))
    with torch.inference_mode():
        report = served.check([1, 2])
    assert report.passed, report.refusal
    (exported,) = export(served.adapter, served.examples(2), served.target()).module()(*pictures)
    with torch.inference_mode():
        assert torch.allclose(exported, served.run_batch(pictures)[0])


def test_a_model_that_gives_a_tensor_is_served_as_it_is(tmp_path):
    assert set(load(folder(tmp_path, "y")).module.state_dict()) == set(STATE)


def test_answers_of_another_dtype_are_held_against_the_scores_too(tmp_path):
    found = load(folder(tmp_path, TAKEN["Hugging Face's"], 'dtype = "bfloat16"')).in_float32
    assert found is not None
    assert found.shape[1] == 5


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("{'boxes': x, 'scores': y}", "dict of boxes, scores, none of them called logits"),
        ("Pooled(x, y)", "Pooled of last_hidden_state, pooler_output, none of them called logits"),
        ("{}", "dict"),
        ("ClassifierOutput(logits=x)", "(1, 3, 8, 8)"),
        ("(y,)", "tuple"),
    ],
)
def test_an_output_without_certain_scores_is_told_with_what_is_in_it(tmp_path, returned, words):
    with pytest.raises(ConfigurationError) as caught:
        load(folder(tmp_path, returned))
    [problem] = caught.value.problems
    assert problem.endswith(f"architecture: forward of (1, 3, 8, 8) gives {words}; it must give (1, classes)")
