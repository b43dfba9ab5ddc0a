"""Answer files in this process: the same loader, the same reading of bodies, the same `run_batch`, no server."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.progress import track

from service.engine.measure import Stopwatch
from service.engine.model import ServedModel
from service.errors import ConfigurationError, Refusal
from service.host.allocator import keep_freed_memory
from service.host.cores import usable_cores
from service.loader.compiled import Arrays
from service.loader.freeze import bytes_of
from service.loader.load import LoadedModel, load
from service.loader.repository import choose_default, find_models
from service.loader.tuning import Tuning
from service.settings import Settings
from service.tasks.catalogue import INPUTS, TASKS, side
from service.tasks.inputs.input import Input, stacked
from service.tasks.outputs.results import results_of
from service.wire.messages import Tensors

#: What a file holds, by its suffix, for each kind of input.
SUFFIXES = {
    "picture": dict.fromkeys((".jpg", ".jpeg", ".png", ".gif", ".webp"), "application/octet-stream"),
    "tensors": {".json": "application/json", ".npy": "application/x-npy", ".npz": "application/x-npz"},
}


@dataclass
class FilePrediction:
    """One example of a file: its entry in the server's `predictions`, or why there is none."""

    source: str
    prediction: dict[str, Any] | None = None
    error: str = ""


@dataclass
class FilePredictions:
    model: str
    version: str
    predictions: list[FilePrediction]

    @property
    def failures(self) -> int:
        return sum(bool(file.error) for file in self.predictions)


@dataclass
class _File:
    """One file with its examples, one array for each input of each; or why it cannot be used."""

    source: str
    examples: list[Any] = field(default_factory=list)
    error: str = ""


def predict_files(sources: list[str], model: str | None, top_k: int, settings: Settings) -> FilePredictions:
    """Answer every file named, in order; a folder gives its files by name.

    Raises:
        ConfigurationError: no such file or model, or a model that fails its self-check.
    """
    keep_freed_memory()
    folders = find_models(settings.models)
    folder = folders[choose_default(folders, model or settings.default_model)]
    files = find_files(sources, SUFFIXES[folder.card.input_kind])
    device = torch.device(settings.first_device(torch.cuda.is_available()))
    loaded = load(folder)
    served = ServedModel(loaded, device)
    threads = settings.threads or usable_cores()
    Stopwatch(served).tune(Tuning("channels_last", threads) if len(files) == 1 else None, threads)
    make = side(INPUTS[folder.card.input_kind].input)
    reader: Input = make(loaded.input_shown, loaded.signature, settings.max_pixels)
    with torch.inference_mode():
        report = served.check([1, served.cap] if len(files) > 1 else [1])
        if not report.passed:
            raise ConfigurationError.at(folder.path, "proof", report.refusal, "fix the model's code")
        predictions = list(_predict_all(files, served, reader, top_k, settings.max_instances))
    return FilePredictions(folder.name, loaded.version, predictions)


def find_files(sources: list[str], suffixes: dict[str, str]) -> list[str]:
    """Return the files that the arguments mean.

    Raises:
        ConfigurationError: one is not there, or a folder holds none; all such at once.
    """
    files: list[str] = []
    problems = []
    for source in sources:
        path = Path(source)
        inside = _files_in(path, suffixes) if path.is_dir() else [path]
        if source != "-" and not path.exists():
            problems.append(f"{source}: there is no such file; name a file, a folder, or - for standard input")
        if not inside:
            problems.append(f"{source}: no file for this model in the folder; names end in {', '.join(suffixes)}")
        files += map(str, inside)
    if problems:
        raise ConfigurationError(problems)
    return files


def _files_in(folder: Path, suffixes: dict[str, str]) -> list[Path]:
    """Return the files below a folder, sorted, without hidden ones such as macOS's `._photo.jpg`."""
    found = (file for file in folder.rglob("*") if file.suffix.lower() in suffixes)
    return sorted(file for file in found if not any(part[0] == "." for part in file.relative_to(folder).parts))


def _predict_all(
    files: list[str], served: ServedModel, reader: Input, top_k: int, most: int
) -> Iterator[FilePrediction]:
    kinds = SUFFIXES[served.card.input_kind]
    with ThreadPoolExecutor(usable_cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        decoded = pool.map(lambda source: _read(reader, source, kinds, most), files)
        hidden = len(files) == 1 or not sys.stderr.isatty()
        read = track(decoded, "Predicting", len(files), console=Console(stderr=True), disable=hidden)
        while batch := list(islice(read, served.cap)):
            yield from _predict_batch(batch, served, top_k)


def _read(reader: Input, source: str, kinds: dict[str, str], most: int) -> _File:
    """Read and decode one file."""
    default = next(iter(kinds.values()))
    try:
        body = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        given = reader.read(kinds.get(Path(source).suffix.lower(), default), body, most)
        here = reader.at_once(given, is_alone=True)
        arrays = stacked([reader.decode(item) for item in given.items]) if here is None else here
        return _File(source, list(zip(*arrays, strict=True)))
    except Refusal as refusal:
        return _File(source, error=refusal.detail)
    except OSError as error:
        return _File(source, error=error.strerror or str(error))


def _predict_batch(batch: list[_File], served: ServedModel, top_k: int) -> Iterator[FilePrediction]:
    examples = [example for file in batch for example in file.examples]
    entries: Iterator[dict[str, Any] | str] = iter(())
    if examples:
        entries = iter(_entries(served, [torch.from_numpy(array) for array in stacked(examples)], top_k))
    for file in batch:
        if file.error:
            yield FilePrediction(_shown(file.source), error=file.error)
        for number in range(len(file.examples)):
            name = _shown(file.source) + (f"[{number}]" if len(file.examples) > 1 else "")
            entry = next(entries)
            yield FilePrediction(name, error=entry) if isinstance(entry, str) else FilePrediction(name, entry)


def _entries(served: ServedModel, arrays: Sequence[torch.Tensor], top_k: int) -> list[dict[str, Any] | str]:
    """Return the server's entry for each example, or why it has none, in batches that fit."""
    loaded: LoadedModel = served.loaded
    output = side(TASKS[served.card.task].output)()
    wishes = output.wishes(
        [("top_k", str(top_k))] if served.card.task == "classification" else [], "", loaded.signature
    )
    wishes = output.agreed(wishes, {})
    entries: list[dict[str, Any] | str] = []
    for start in range(0, len(arrays[0]), served.cap):
        piece: Arrays = tuple(
            array[start : start + served.cap].view(_dtype_of(spec.dtype, array))
            for spec, array in zip(loaded.signature.inputs, arrays, strict=True)
        )
        results, faults = served.results(served.run_batch(piece))
        data = Tensors.of(*map(bytes_of, results)).data
        written = output.write(results_of(data, loaded.signature, len(piece[0])), loaded, wishes)
        answered = msgspec.json.decode(written.body)["predictions"]
        entries += [faults.get(place, entry) for place, entry in enumerate(answered)]
    return entries


def _dtype_of(name: str, array: torch.Tensor) -> torch.dtype:
    """Return torch's dtype of an input; bfloat16 comes from numpy as 16 bits of integers."""
    return torch.bfloat16 if name == "bfloat16" else array.dtype


def _shown(source: str) -> str:
    """Return a file's name as it is in the file system, whatever the locale made of its bytes."""
    return os.fsencode(source).decode("utf-8", "surrogateescape")
