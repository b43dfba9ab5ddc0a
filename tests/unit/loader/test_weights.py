"""State dicts into architectures: what fits is there bit for bit, what does not fit is told, nothing is executed."""

import json
import os
import pickle
import sys

import pytest
import safetensors.torch
import torch
from torch import nn

from service.errors import ConfigurationError
from service.loader.weights import build, fill
from tests.support.tiny import CODE, tiny, tiny_at


def state(seed=7):
    """A state_dict of the tiny model."""
    generator = torch.Generator().manual_seed(seed)
    return {"2.weight": torch.randn(5, 12, generator=generator), "2.bias": torch.randn(5, generator=generator)}


def folder_with(root, name, content):
    """A tiny model whose weights are a file of these bytes, or an object that torch saves."""
    path = tiny_at(root, f"file:{name}") / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path)
    return tiny(root)


def refused(folder):
    with pytest.raises(ConfigurationError) as caught:
        build(folder)
    return caught.value.problems


class Attack:
    """Unpickled by anything that calls what a pickle names, it makes a folder."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def as_zip(content, path):
    torch.save(content, path)


def as_torch_once_did(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_plain_pickle(content, path):
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "weights.safetensors"])
def test_a_state_dict_is_loaded_bit_for_bit(tmp_path, name):
    loaded = build(folder_with(tmp_path, name, state())).state_dict()
    assert loaded.keys() == state().keys()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state().items())


def test_a_state_dict_inside_a_checkpoint_is_loaded(tmp_path):
    checkpoint = {"epoch": 3, "state_dict": state(), "best": 0.91}
    loaded = build(folder_with(tmp_path, "weights.pth", checkpoint)).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state().items())


def test_a_state_dict_in_the_format_of_old_is_loaded(tmp_path):
    as_torch_once_did(state(), tiny_at(tmp_path, "file:weights.pth") / "weights.pth")
    assert torch.equal(build(tiny(tmp_path)).state_dict()["2.weight"], state()["2.weight"])


def test_a_state_dict_inside_a_package_is_loaded(tmp_path, monkeypatch):
    package = tmp_path / "site" / "package_of_state"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    torch.save(state(), package / "weights.pth")
    monkeypatch.syspath_prepend(package.parent)
    loaded = build(tiny(tmp_path / "models", "package:package_of_state/weights.pth")).state_dict()
    assert torch.equal(loaded["2.weight"], state()["2.weight"])


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_missing_unexpected_and_misshapen_keys_are_told_together(tmp_path, name):
    content = {"2.weight": torch.zeros(5, 13), "2.offset": torch.zeros(5)}
    missing, unexpected, reshaped = refused(folder_with(tmp_path, name, content))
    assert f"{tmp_path / 'tiny' / 'model.toml'}: weights: missing in the weights: 2.bias;" in missing
    assert "weights: unexpected in the weights: 2.offset;" in unexpected
    assert "weights: of another shape: 2.weight is (5, 13), the architecture needs (5, 12);" in reshaped


def test_of_many_keys_that_do_not_fit_twenty_are_told_and_the_rest_is_counted(tmp_path):
    content = state() | {f"extra.{n:02}": torch.zeros(1) for n in range(25)}
    [unexpected] = refused(folder_with(tmp_path, "weights.pth", content))
    assert "extra.00, extra.01" in unexpected
    assert "extra.19, … and 5 more;" in unexpected


def test_a_buffer_that_the_weights_lack_is_missing(tmp_path):
    module = nn.BatchNorm2d(3)
    content = {key: tensor for key, tensor in module.state_dict().items() if key != "running_var"}
    with pytest.raises(ConfigurationError, match="missing in the weights: running_var"):
        fill(module, content, tmp_path / "model.toml")


def test_nothing_is_loaded_of_weights_that_do_not_fit(tmp_path):
    module = nn.Linear(2, 2)
    before = module.weight.detach().clone()
    with pytest.raises(ConfigurationError):
        fill(module, {"weight": torch.zeros(2, 2)}, tmp_path / "model.toml")
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize("write", [as_zip, as_torch_once_did, as_plain_pickle])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path, write):
    marker = tmp_path / "executed"
    path = tiny_at(tmp_path, "file:weights.pth") / "weights.pth"
    write(state() | {"2.bias": Attack(marker)}, path)
    [problem] = refused(tiny(tmp_path))
    assert problem.startswith(f"{path}: weights: it is broken or holds more than tensors")
    assert not marker.exists()


@pytest.mark.parametrize("write", [as_zip, as_torch_once_did])
def test_the_attack_is_a_real_one(tmp_path, write):
    marker = tmp_path / "executed"
    write({"2.bias": Attack(marker)}, tmp_path / "weights.pth")
    torch.load(tmp_path / "weights.pth", weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", bytes(range(256)) * 8, b"PK\x03\x04" + bytes(100), b"\x80\x02" + bytes(100)],
    ids=["empty", "one byte", "random", "the head of a zip", "the head of a pickle"],
)
def test_a_broken_file_is_told_by_its_name(tmp_path, name, content):
    [problem] = refused(folder_with(tmp_path, name, content))
    assert problem.startswith(f"{tmp_path / 'tiny' / name}: weights: ")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.99])
def test_a_truncated_file_is_told_by_its_name(tmp_path, name, kept):
    path = folder_with(tmp_path, name, state()).path / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    [problem] = refused(tiny(tmp_path))
    assert problem.startswith(f"{path}: weights: ")


@pytest.mark.parametrize(
    ("content", "kind"),
    [([torch.zeros(5)], "list"), (torch.zeros(5), "Tensor"), ({"2.bias": 1.0}, "dict"), ({1: torch.zeros(5)}, "dict")],
    ids=["a list", "a tensor", "numbers for tensors", "numbers for names"],
)
def test_tensors_that_are_no_state_dict_are_told_what_they_are(tmp_path, content, kind):
    [problem] = refused(folder_with(tmp_path, "weights.pth", content))
    assert f"is no state_dict (names to tensors) but another {kind}" in problem


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def tiny(): raise ValueError('no such width')", "tiny() of architecture.py raised ValueError: no such width"),
        ("def tiny(): return lambda x: x", "tiny() of architecture.py returned function"),
        ("def tiny(): pass", "tiny() of architecture.py returned NoneType"),
        ("def other(): pass", "raised AttributeError"),
        ("tiny = 3", "raised TypeError"),
        ("def tiny(", "raised SyntaxError"),
        ("import a_package_nobody_has", "raised ModuleNotFoundError: No module named 'a_package_nobody_has'"),
        ("raise Exception", "raised Exception: no more is known"),
    ],
    ids=["raises", "returns a function", "returns nothing", "is missing", "is 3", "is no Python", "imports", "at once"],
)
@pytest.mark.parametrize("weights", ["random:1", "file:weights.pth"])
def test_an_architecture_that_cannot_be_made_is_told_in_words(tmp_path, weights, code, words):
    torch.save(state(), tiny_at(tmp_path, weights, code=code) / "weights.pth")
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
