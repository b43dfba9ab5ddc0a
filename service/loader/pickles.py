"""Pickles that torch refuses to load, in words: their operations are read, and none is run."""

from __future__ import annotations

import pickletools
import re
import struct
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from service.errors import shortened
from service.loader.file_kinds import AGAIN, SAVE

#: A file in torch's format of old begins with these: magic number, protocol, system, and what was saved.
_PICKLES = 4
#: Names that a pickle of tensors has.
_SAFE = re.compile(
    r"collections\.(OrderedDict|defaultdict)|torch\.(_utils\._rebuild\w*|\w*Storage|Size|device)"
    r"|torch\.(storage|serialization)\.\w+|torch\.(float|bfloat|int|uint|bool|complex)\w*|_codecs\.encode|(builtins|__builtin__)\.(set|bytearray|dict|list)"
)
#: Usual keys of the state_dict in a checkpoint.
_KNOWN_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "ema")


@dataclass
class _Pickled:
    """The content of a pickle, read without running it.

    Attributes:
        needs: classes and functions that it names and that are more than tensors.
        model: the class of a whole module in it.
        key: the key of a dict that the module is under.
    """

    needs: list[str] = field(default_factory=list)
    strings: set[str] = field(default_factory=set)
    model: str = ""
    key: str = ""


def refusal(path: Path, error: Exception) -> tuple[str, str]:
    """Say why torch does not read a file, and what would be right; torch's own advice is to run it."""
    pickled = _look_into(path)
    loading = f'torch.load("{path.name}", weights_only=False)'
    if pickled.model:
        words = f"holds a whole model, a pickled {pickled.model}, and unpickling it could run code"
        model = f"model = {loading}" + (f'["{pickled.key}"]' if pickled.key else "")
        return words, f'where it was trained, run {model} and torch.save(model.state_dict(), "weights.pth")'
    if pickled.needs:
        words = f"holds more than tensors: it needs {shortened(pickled.needs, 3)}, and unpickling that could run code"
        key = next((key for key in _KNOWN_KEYS if key in pickled.strings), "state_dict")
        saving = f'torch.save({loading}["{key}"], "weights.pth")'
        return words, f"where it was trained, save the state_dict alone: {saving}"
    text = str(error)
    if isinstance(error, EOFError | struct.error) or "unexpected EOF" in text or "truncated" in text:
        return f"is a file of torch.save that is cut short, at {path.stat().st_size:,} bytes", AGAIN
    return f"is not a readable file of weights: {_plain(error)}", SAVE


def _plain(error: Exception) -> str:
    """The first line of an error, without the advice and the colours that torch wraps around it."""
    text = str(error)
    if found := re.search(r"WeightsUnpickler error: (.*)", text):
        text = found[1]
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() or [""]
    first = lines[0].partition(". This is an internal miniz error")[0]
    if first.startswith("Weights only load failed"):
        first = ""
    return f"{type(error).__name__}: {first[:200]}".rstrip(": ")


def _look_into(path: Path) -> _Pickled:
    """Read the operations of the pickles in a file."""
    found = _Pickled()
    with suppress(Exception):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                [name] = [name for name in archive.namelist() if name.partition("/")[2] == "data.pkl"]
                with archive.open(name) as file:
                    _look_at(file, found)
        else:
            with path.open("rb") as file:
                for _ in range(_PICKLES):
                    _look_at(file, found)
    return found


def _look_at(file: IO[bytes], found: _Pickled) -> None:
    """Read one pickle's operations.

    Raises:
        ValueError: there is none.
    """
    memo: dict[Any, str] = {}
    texts = [""]
    named, key, started = "", "", ""
    for operation, argument, _ in pickletools.genops(file):
        name = operation.name
        started = started or (name if name not in ("PROTO", "FRAME") else "")
        if name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                texts, argument = texts[:-2], ".".join(texts[-2:])
            named = str(argument).replace(" ", ".")
            key = texts[-1] if started == "EMPTY_DICT" else ""
            if not _SAFE.fullmatch(named) and named not in found.needs:
                found.needs.append(named)
        elif name == "MEMOIZE":
            memo[len(memo)] = texts[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = texts[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            texts.append(memo.get(argument, ""))
        elif isinstance(argument, str):
            texts.append(argument)
            found.strings.add(argument)
            if argument == "_parameters" and not found.model and named:
                found.model, found.key = named, key
