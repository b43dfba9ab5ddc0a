"""From a folder to a frozen, sealed model, or to words about what does not fit."""

import os
import sys

import pytest
import torch

from service.errors import ConfigurationError
from service.loader.freeze import seal
from service.loader.load import load
from service.signature import TensorSpec
from tests.support.models import make_models
from tests.support.tiny import CLASSES, CODE, INPUT, tiny, tiny_at

#: A model whose forward is one line.
FORWARD = """\
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(192, 5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        {}


def tiny():
    return Tiny()
"""
STATE = {"last.weight": torch.zeros(5, 192), "last.bias": torch.zeros(5)}


def with_forward(root, line):
    """The model with its weights in a file, so that nothing but `load` runs it."""
    path = tiny_at(root, "file:weights.pth", code=FORWARD.format(line))
    torch.save(STATE, path / "weights.pth")
    return tiny(root)


def loaded_version(root, edit=lambda path: None):
    path = tiny_at(root)
    edit(path)
    return load(tiny(root)).version


def test_a_loaded_model_is_frozen(tmp_path):
    module = load(with_forward(tmp_path, "return self.dropout(self.last(x.flatten(1)))")).module
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_a_loaded_model_is_known_by_name_seal_classes_labels_and_size(tmp_path):
    model = load(tiny(tmp_path))
    assert model.name == "tiny"
    assert model.seal == seal(model.module)
    assert model.adapter.raw == (TensorSpec("scores", "float32", (CLASSES,)),)
    assert model.answer == {"labels": ["0", "1", "2", "3", "4"]}
    assert (model.input.resize, model.input.crop) == (8, 8)
    assert model.memory == {"parameters": 65 * 4, "buffers": 0}


def test_weights_of_another_precision_become_float32(tmp_path):
    path = tiny_at(tmp_path, "file:weights.pth", code=CODE.replace(f"{CLASSES}))", f"{CLASSES})).half()"))
    torch.save({"2.weight": torch.ones(5, 12).half(), "2.bias": torch.zeros(5).half()}, path / "weights.pth")
    assert {parameter.dtype for parameter in load(tiny(tmp_path)).module.parameters()} == {torch.float32}


def test_weights_stay_normal_tensors(tmp_path):
    module = load(tiny(tmp_path)).module
    assert not any(parameter.is_inference() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("return self.last(x.flatten(1))[0]", "forward of (1, 3, 8, 8) gives (5,)"),
        ("return self.last(x.flatten(1)).view(1, 5, 1, 1)", "forward of (1, 3, 8, 8) gives (1, 5, 1, 1)"),
        ("return self.last(x.flatten(1)), x", "forward of (1, 3, 8, 8) gives tuple"),
        ("return {}", "forward of (1, 3, 8, 8) gives dict"),
        ("return {'a': self.last(x.flatten(1))[0]}", "forward of (1, 3, 8, 8) gives (5,)"),
        ("return {'a': x, 'b': x}", "forward of (1, 3, 8, 8) gives dict of a, b, none of them called logits"),
        ("return None", "forward of (1, 3, 8, 8) gives NoneType"),
        ("return self.last(x.flatten(1))[:, :0]", "forward of (1, 3, 8, 8) gives (1, 0)"),
        ("return self.last(x.flatten(1))[:0]", "forward of (1, 3, 8, 8) gives (0, 5)"),
        ("return self.last(x.flatten(1)).T", "forward of (1, 3, 8, 8) gives (5, 1)"),
    ],
)
def test_a_forward_that_does_not_give_a_row_of_scores_is_told_with_its_card(tmp_path, line, words):
    with pytest.raises(ConfigurationError) as caught:
        load(with_forward(tmp_path, line))
    [problem] = caught.value.problems
    assert problem.startswith(f"{tmp_path / 'tiny' / 'model.toml'}: architecture: {words}")
    assert problem.endswith("; it must give (1, classes)")


def test_the_forward_that_counts_classes_is_run_frozen_and_without_a_graph(tmp_path):
    line = "assert not self.training and torch.is_inference_mode_enabled(); return self.last(x.flatten(1))"
    assert load(with_forward(tmp_path, line)).adapter.raw[0].shape == (5,)


def test_labels_that_are_not_as_many_as_the_classes_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="labels: 2 labels for 5 classes"):
        load(tiny(tmp_path, "random:1", 'labels = ["cat", "dog"]'))


def test_the_version_is_the_same_for_the_same_folder_elsewhere(tmp_path):
    assert loaded_version(tmp_path / "here") == loaded_version(tmp_path / "there")


def test_the_version_is_the_same_whatever_the_cards_layout(tmp_path):
    def relayout(path):
        lines = INPUT.splitlines()
        table = "\n".join(["# small", lines[0], "  crop=8", "  resize=8"])
        path.joinpath("model.toml").write_text(f"architecture='architecture:tiny'\nweights='random:1'\n{table}\n")

    assert loaded_version(tmp_path / "here") == loaded_version(tmp_path / "there", relayout)


def test_the_version_changes_with_the_architectures_source_even_if_the_weights_are_the_same(tmp_path):
    def comment(path):
        path.joinpath("architecture.py").write_text(CODE + "# changed\n")

    assert loaded_version(tmp_path / "here") != loaded_version(tmp_path / "there", comment)


def test_the_version_changes_with_the_input_of_the_card(tmp_path):
    def wider(path):
        card = path.joinpath("model.toml")
        card.write_text(card.read_text().replace("resize = 8", "resize = 9"))

    assert loaded_version(tmp_path / "here") != loaded_version(tmp_path / "there", wider)


def test_the_version_changes_with_the_labels_in_a_file(tmp_path):
    def version(root, labels):
        path = tiny_at(root, "random:1", 'labels = "file:labels.txt"')
        (path / "labels.txt").write_text(labels)
        return load(tiny(root)).version

    assert version(tmp_path / "here", "a\nb\nc\nd\ne\n") != version(tmp_path / "there", "a\nb\nc\nd\nf\n")


def test_the_version_changes_with_the_weights(tmp_path):
    def version(root, value):
        path = tiny_at(root, "file:weights.pth")
        torch.save({"2.weight": torch.full((5, 12), value), "2.bias": torch.zeros(5)}, path / "weights.pth")
        return load(tiny(root)).version

    assert version(tmp_path / "here", 1.0) != version(tmp_path / "there", 2.0)


def test_code_that_changes_within_a_second_and_keeps_its_length_is_what_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    folder = tiny(tmp_path, code=CODE)
    source = folder.path / "architecture.py"
    load(folder)
    written = source.stat()
    source.write_text(CODE.replace("AvgPool2d", "MaxPool2d"))
    os.utime(source, ns=(written.st_atime_ns, written.st_mtime_ns))
    assert isinstance(load(folder).module[0], torch.nn.MaxPool2d)


def one_output(root, *lines):
    code = CODE.replace("12, 5)", "12, 1)")
    assert code != CODE
    return tiny(root, "random:1", *lines, code=code)


def test_a_single_output_is_refused_with_what_would_be_right(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        load(one_output(tmp_path))
    (problem,) = caught.value.problems
    assert "the probability of a single class is always 1" in problem
    assert 'set activation = "sigmoid"' in problem
    assert problem.endswith('; for a number set task = "regression"')


def test_a_single_logit_with_a_sigmoid_is_a_class(tmp_path):
    assert load(one_output(tmp_path, 'activation = "sigmoid"')).adapter.raw[0].shape == (1,)


@pytest.mark.parametrize(
    ("mean", "std", "told"), [("[0, 0, 0]", "[1, 1, 1]", True), ("[0, 0, 0]", "[255, 255, 255]", False)]
)
def test_pixels_that_reach_the_model_as_they_are_are_told(tmp_path, mean, std, told):
    path = tiny_at(tmp_path)
    (path / "model.toml").write_text(f"{(path / 'model.toml').read_text()}mean = {mean}\nstd = {std}\n")
    assert any(finding.name == "raw-pixels" for finding in load(tiny(tmp_path)).findings) is told


REGRESSION = CODE.replace("12, 5)", "12, 2)")


def regression(root, *lines, code=REGRESSION):
    return load(tiny(root, "random:1", 'task = "regression"', *lines, code=code))


def test_a_regression_answers_with_the_names_of_its_card(tmp_path):
    model = regression(tmp_path, 'values = ["age", "height"]')
    assert model.answer == {"values": ["age", "height"]}
    assert model.signature.outputs == (TensorSpec("values", "float32", (2,)),)


@pytest.mark.parametrize(
    ("last", "shape", "names"),
    [
        ("nn.Linear(12, 2)", (2,), ["value_0", "value_1"]),
        ("nn.Linear(12, 1)", (1,), ["value"]),
        ("nn.Linear(12, 1), nn.Flatten(0)", (), ["value"]),
    ],
)
def test_a_regression_without_names_numbers_its_values(tmp_path, last, shape, names):
    model = regression(tmp_path, code=CODE.replace(f"nn.Linear(12, {CLASSES})", last))
    assert model.adapter.raw[0].shape == shape
    assert model.answer == {"values": names}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ('["age"]', "values: 1 names for 2 numbers; give 2, or leave values out"),
        ('["age", "b", "c"]', "values: 3 names for 2 numbers; give 2, or leave values out"),
        ('["age", "age"]', "values: 1 names for 2 numbers; give 2, or leave values out"),
    ],
)
def test_names_that_are_not_as_many_as_the_values_are_refused(tmp_path, values, words):
    with pytest.raises(ConfigurationError) as caught:
        regression(tmp_path, f"values = {values}")
    [problem] = caught.value.problems
    assert problem.endswith(words)


@pytest.mark.parametrize("last", ["nn.Unflatten(1, (2, 2, 3))", "nn.Flatten(0)"])
def test_a_forward_that_does_not_give_numbers_is_no_regression(tmp_path, last):
    code = CODE.replace(f"nn.Linear(12, {CLASSES})", last)
    with pytest.raises(ConfigurationError, match=r"it must give \(1, numbers\), or \(1,\) for one number"):
        regression(tmp_path, code=code)


def test_inputs_decide_for_what_bodies_are_decoded(tmp_path):
    def decoded_for(name, shape, dtype="float32"):
        card = f'weights = "random:1"\narchitecture = "architecture:tiny"\n[inputs.{name}]\nshape = {shape}\n'
        make_models(tmp_path / f"{name}{dtype}{len(shape)}", tiny=f'{card}dtype = "{dtype}"\n')
        path = tmp_path / f"{name}{dtype}{len(shape)}"
        (path / "tiny" / "architecture.py").write_text(CODE)
        return load(tiny(path)).decoded_for

    found = [decoded_for("x", [3, 8, 8]), decoded_for("y", [3, 8, 8]), decoded_for("x", [3, 8, 8], "float64")]
    assert len({*found, load(tiny(tmp_path / "pictures")).decoded_for}) == 4
