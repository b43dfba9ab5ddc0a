"""The kind of a file of weights, by its content: suffixes say little, and often the file is something else."""

from __future__ import annotations

import contextlib
import json
import zipfile
from pathlib import Path
from typing import Any

from service.errors import ConfigurationError, shortened

_HEAD_BYTES = 512
_MOST_LISTED = 3
#: Longest text that is read as a whole: the index of shards of a large model has a hundred thousand bytes.
_MOST_TEXT_BYTES = 64 << 20

AGAIN = "copy or download it again"
SAVE = "save it with torch.save(model.state_dict(), …) or as .safetensors"
_PYTORCH = f"this version serves PyTorch models; {SAVE}"
_UNPACK = "unpack it, and name the file of weights in it"

#: First bytes, the kind of file that has them, and what would be right.
_BEGINNINGS = [
    (b"version https://git-lfs.github.com/spec/", "is a pointer of git-lfs, not the file itself", "run git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as Keras and TensorFlow save models", _PYTORCH),
    (b"GGUF", "is a GGUF file, a language model for llama.cpp", _PYTORCH),
    (b"\x93NUMPY", "is an array of numpy", _PYTORCH),
    (b"\x1f\x8b", "is compressed with gzip", _UNPACK),
]
_PAGES = (b"<!doctype html", b"<html", b"<?xml")


def refuse_other_kinds(path: Path) -> None:
    """Look at the first bytes of a file, and at the names in it where it is a zip.

    Raises:
        ConfigurationError: it is known, and is not what holds a state_dict.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if found := _other_kind(path, head):
        raise ConfigurationError.at(path, "weights", *found)


def is_safetensors(path: Path) -> bool:
    """Return whether the file has the header of safetensors: eight bytes of length, and JSON."""
    with path.open("rb") as file:
        return _is_safetensors(file.read(9))


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def _other_kind(path: Path, head: bytes) -> tuple[str, str] | None:
    """Say what the file is if it is not a state_dict, and what would be right; None if it may be one."""
    if not head:
        return "is empty", AGAIN
    for beginning, words, fix in _BEGINNINGS:
        if head.startswith(beginning):
            return words, fix
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.lower().startswith(_PAGES):
        return "is a web page in place of the weights", "download the file itself; the page may say why it did not come"
    if text.startswith((b"{", b"[")):
        return _other_json(path)
    if head.startswith(b"PK\x03\x04"):
        return _other_zip(path)
    if _is_safetensors(head):
        return _cut_safetensors(path)
    if head[257:262] == b"ustar":
        return "is a tar archive", _UNPACK
    if head[4:8] == b"TFL3":
        return "is a TensorFlow Lite model", _PYTORCH
    if _is_onnx(head):
        return "is an ONNX model", _PYTORCH
    return None


def _is_onnx(head: bytes) -> bool:
    """Protobuf has no magic number; exporters write `ir_version`, field 1, first, and then a string or the graph."""
    return head[:1] == b"\x08" and 0 < head[1] < 32 and head[2:3] in (b"\x12", b"\x1a", b"\x22", b":", b"B")


def _other_json(path: Path) -> tuple[str, str]:
    content = None
    if path.stat().st_size <= _MOST_TEXT_BYTES:
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(path.read_bytes())
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict):
        return "is JSON in place of the weights", "name the file that holds the tensors"
    names = sorted({str(name) for name in shards.values()})
    if any(name.endswith(".safetensors") for name in names):
        load, save = "safetensors.torch.load_file(shard)", 'safetensors.torch.save_file(state, "weights.safetensors")'
    else:
        load, save = "torch.load(shard)", 'torch.save(state, "weights.pth")'
    words = f"is the index of {len(names)} shards ({shortened(names, _MOST_LISTED)}), which hold the tensors"
    return words, f"merge them: state |= {load} for each, from state = {{}} on, then {save}"


def _other_zip(path: Path) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
            whole = set(archive.namelist())
    except zipfile.BadZipFile:
        return f"is a zip file that is cut short or damaged, at {path.stat().st_size:,} bytes", AGAIN
    if any(name.startswith("code/") for name in names) and "constants.pkl" in names:
        return "is a TorchScript archive, a program with its weights", f"of the model that it was made from, {SAVE}"
    if {"archive_format", "serialized_exported_program.json"} & {*names}:
        return (
            "is a .pt2 archive of torch.export, a program with its weights",
            f"of the model that it was made from, {SAVE}",
        )
    if "data.pkl" in names:
        return None
    if all(name.endswith(".npy") for name in whole):
        return "is an .npz of numpy", _PYTORCH
    if "model.weights.h5" in whole:
        return "is a model of Keras", _PYTORCH
    return f"is a zip file, but none of torch.save; it holds {shortened(sorted(whole), _MOST_LISTED)}", _UNPACK


def _cut_safetensors(path: Path) -> tuple[str, str] | None:
    """Say that a file of safetensors is cut short, which its header tells; None if it is whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        whole = 8 + header_bytes
        if whole <= size:
            try:
                whole += _last_offset(json.loads(file.read(header_bytes)))
            except (ValueError, TypeError, LookupError, RecursionError):
                return None  # safetensors reports any other fault
    if whole > size:
        return f"is a file of safetensors that is cut short: {size:,} of {whole:,} bytes are there", AGAIN
    return None


def _last_offset(header: Any) -> int:
    return max((int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"), default=0)
