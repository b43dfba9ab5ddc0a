"""The operator's code, run to make a module: what it is told when it fails, and under which names it runs."""

import json
import sys

import pytest
import torch

from service.errors import ConfigurationError
from service.loader.weights import build
from tests.support.tiny import CODE, tiny, tiny_at


def refused(folder):
    with pytest.raises(ConfigurationError) as caught:
        build(folder)
    return caught.value.problems


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def tiny(): raise ValueError('no such width')", "tiny() of architecture.py raised ValueError: no such width"),
        ("def tiny(): return lambda x: x", "tiny() of architecture.py returned function"),
        ("def tiny(): pass", "tiny() of architecture.py returned NoneType"),
        ("def other(): pass", "architecture.py has no tiny(); it defines other; name one that returns"),
        ("from torch import nn", "architecture.py has no tiny(); it defines nothing that can be called;"),
        ("tiny = 3", "tiny of architecture.py is not a function but int; it must return a torch.nn.Module when called"),
        ("def tiny(", "raised SyntaxError: '(' was never closed (architecture.py:1); fix the code"),
        ("import a_package_nobody_has", "(architecture.py:1); install it: a_package_nobody_has is in no installed"),
        (
            "import torch.nothing",
            "No module named 'torch.nothing' (architecture.py:1); install a version of torch that has it",
        ),
        ("def tiny():\n import nobody_has.it", "'nobody_has' (architecture.py:2); install it: nobody_has is in no"),
        ("raise Exception", "raised Exception: no more is known (architecture.py:1); fix the code"),
        ("import sys; sys.exit(3)", "raised SystemExit: 3 (architecture.py:1)"),
        ("def tiny(): exit()", "raised SystemExit: None (architecture.py:1)"),
        ("def tiny():\n  one()\ndef one():\n  return [][0]", "IndexError: list index out of range (architecture.py:4)"),
    ],
)
@pytest.mark.parametrize("weights", ["random:1", "file:weights.pth"])
def test_an_architecture_that_cannot_be_made_is_told_in_words(tmp_path, weights, code, words):
    torch.save({}, tiny_at(tmp_path, weights, code=code) / "weights.pth")
    [problem] = refused(tiny(tmp_path))
    assert problem.startswith(f"{tmp_path / 'tiny' / 'model.toml'}: architecture: ")
    assert words in problem


def test_architectures_of_one_name_in_two_folders_are_two(tmp_path):
    wider = CODE.replace("AvgPool2d(4)", "AvgPool2d(2)").replace("Linear(12", "Linear(48")
    assert build(tiny(tmp_path / "narrow"))[2].in_features == 12
    assert build(tiny(tmp_path / "wide", code=wider))[2].in_features == 48


def test_the_architecture_is_imported_under_a_name_that_hides_no_module(tmp_path):
    path = tiny_at(tmp_path)
    (path / "architecture.py").rename(path / "json.py")
    (path / "model.toml").write_text((path / "model.toml").read_text().replace("architecture:tiny", "json:tiny"))
    build(tiny(tmp_path))
    assert sys.modules["json"] is json
