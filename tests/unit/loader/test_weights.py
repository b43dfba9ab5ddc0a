"""State dicts into architectures: what fits is there bit for bit, what does not fit is told, nothing is executed."""

import os
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from service.errors import ConfigurationError
from service.loader.state import fill
from service.loader.weights import build
from tests.support.tiny import tiny, tiny_at


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
    assert f"{tmp_path / 'tiny' / 'model.toml'}: weights: missing from the weights: 2.bias;" in missing
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
    with pytest.raises(ConfigurationError, match="missing from the weights: running_var"):
        fill(module, content, tmp_path / "model.toml")


@pytest.mark.parametrize("write", [as_zip, as_torch_once_did, as_plain_pickle])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path, write):
    marker = tmp_path / "executed"
    path = tiny_at(tmp_path, "file:weights.pth") / "weights.pth"
    write(state() | {"2.bias": Attack(marker)}, path)
    [problem] = refused(tiny(tmp_path))
    words = "holds more than tensors: it needs posix.mkdir, and unpickling that could run code"
    assert problem.startswith(f"{path}: weights: {words}; where it was trained, save the state_dict alone: ")
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
