"""What lies in the place of a state_dict is told by its name, whatever its ending."""

import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from service.errors import ConfigurationError
from service.loader.checkpoint import read_content

SAVE = "save it with torch.save(model.state_dict(), …) or as .safetensors"
PYTORCH = f"this version serves PyTorch models; {SAVE}"
AGAIN = "copy or download it again"
UNPACK = "unpack it, and name the file of weights in it"


def saved(**options):
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(64, 64)}, file, **options)
    return file.getvalue()


def zipped(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return file.getvalue()


def tarred():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return file.getvalue()


def npz():
    file = io.BytesIO()
    np.savez(file, weight=np.zeros(3))
    return file.getvalue()


def npy():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def index(suffix):
    names = [f"model-{number:05}-of-00002{suffix}" for number in (1, 2)]
    return json.dumps({"metadata": {}, "weight_map": dict(zip("ab", names, strict=True))}).encode()


ZIP, OLD, SAFE = (
    saved(),
    saved(_use_new_zipfile_serialization=False),
    safetensors.torch.save({"w": torch.zeros(64, 64)}),
)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
SHARDS = "is the index of 2 shards (model-00001-of-00002{0}, model-00002-of-00002{0}), which hold the tensors"
OTHERS = {
    "empty": (b"", "is empty", AGAIN),
    "git-lfs": (POINTER, "is a pointer of git-lfs, not the file itself", "run git lfs pull"),
    "zip cut short": (ZIP[:-9], f"is a zip file that is cut short or damaged, at {len(ZIP) - 9:,} bytes", AGAIN),
    "pickle cut short": (OLD[:-9], f"is a file of torch.save that is cut short, at {len(OLD) - 9:,} bytes", AGAIN),
    "pickle cut shorter": (OLD[:99], "is a file of torch.save that is cut short, at 99 bytes", AGAIN),
    "safetensors cut short": (
        SAFE[:-9],
        f"is a file of safetensors that is cut short: {len(SAFE) - 9:,} of {len(SAFE):,} bytes are there",
        AGAIN,
    ),
    "safetensors cut in its header": (SAFE[:20], "is a file of safetensors that is cut short: 20 of ", AGAIN),
    "a page": (
        b"\n<!DOCTYPE html>\n<html><body>404</body></html>",
        "is a web page in place of the weights",
        "download the file itself; the page may say why it did not come",
    ),
    "JSON": (b'{"error": "not found"}', "is JSON in place of the weights", "name the file that holds the tensors"),
    "shards of safetensors": (
        index(".safetensors"),
        SHARDS.format(".safetensors"),
        "merge them: state |= safetensors.torch.load_file(shard) for each, from state = {} on, then "
        'safetensors.torch.save_file(state, "weights.safetensors")',
    ),
    "shards of pickles": (
        index(".bin"),
        SHARDS.format(".bin"),
        'merge them: state |= torch.load(shard) for each, from state = {} on, then torch.save(state, "weights.pth")',
    ),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file, as Keras and TensorFlow save models", PYTORCH),
    "Keras": (zipped("config.json", "model.weights.h5"), "is a model of Keras", PYTORCH),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(99), "is a TensorFlow Lite model", PYTORCH),
    "ONNX": (b"\x08\x0a\x12\x07pytorch\x1a\x052.1.0" + bytes(99), "is an ONNX model", PYTORCH),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(99), "is a GGUF file, a language model for llama.cpp", PYTORCH),
    "npz": (npz(), "is an .npz of numpy", PYTORCH),
    "npy": (npy(), "is an array of numpy", PYTORCH),
    "gzip": (gzip.compress(ZIP), "is compressed with gzip", UNPACK),
    "tar": (tarred(), "is a tar archive", UNPACK),
    "another zip": (
        zipped("weights.pth", "README.md"),
        "is a zip file, but none of torch.save; it holds README.md, weights.pth",
        UNPACK,
    ),
}


def refused(path):
    with pytest.raises(ConfigurationError) as caught:
        read_content(path)
    [problem] = caught.value.problems
    return problem


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_state_dict_is_told_by_its_name_and_with_what_is_right(tmp_path, name):
    content, words, fix = OTHERS[name]
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    problem = refused(path)
    assert problem.startswith(f"{path}: weights: {words}")
    assert problem.endswith(f"; {fix}")


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_torchscript_is_told(tmp_path):
    path = tmp_path / "weights.pt"
    torch.jit.script(nn.Linear(2, 2)).save(path)
    words = "is a TorchScript archive, a program with its weights"
    assert refused(path) == f"{path}: weights: {words}; of the model that it was made from, {SAVE}"


def test_an_exported_program_is_told(tmp_path):
    path = tmp_path / "weights.pt2"
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), path)
    words = "is a .pt2 archive of torch.export, a program with its weights"
    assert refused(path) == f"{path}: weights: {words}; of the model that it was made from, {SAVE}"


@pytest.mark.parametrize("name", ["weights.bin", "weights.ckpt", "weights.pth.tar", "weights", "weights.safetensors"])
@pytest.mark.parametrize("content", [ZIP, OLD, SAFE], ids=["zip", "of old", "safetensors"])
def test_weights_are_read_whatever_they_are_called(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert [tensor.shape for tensor in read_content(path).values()] == [(64, 64)]


def test_noise_is_told_without_torchs_advice(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(bytes(range(256)) * 8)
    problem = refused(path)
    assert problem.startswith(f"{path}: weights: is not a readable file of weights: ")
    assert problem.endswith(f"; {SAVE}")
    assert "\x1b" not in problem
    assert "weights_only" not in problem
