"""Classify files in this process: the same loader, the same decoder, the same `run_batch`, no server."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from service.engine.measure import Stopwatch
from service.engine.model import ServedModel
from service.errors import ConfigurationError, Refusal
from service.host.allocator import keep_freed_memory
from service.host.cores import usable_cores
from service.loader.load import load
from service.loader.repository import choose_default, find_models
from service.loader.tuning import Tuning
from service.settings import Settings
from service.tasks.adapters.heads import best_classes
from service.tasks.inputs.picture import ImageDecoder
from service.tasks.outputs.classes import Prediction, prediction

SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".webp"}


@dataclass
class FilePrediction:
    """One file: its prediction, or why there is none."""

    source: str
    prediction: Prediction | None = None
    error: str = ""


@dataclass
class FilePredictions:
    model: str
    version: str
    predictions: list[FilePrediction]

    @property
    def failures(self) -> int:
        return sum(bool(file.error) for file in self.predictions)


def predict_files(sources: list[str], model: str | None, top_k: int, settings: Settings) -> FilePredictions:
    """Classify every picture named, in order; a folder gives its pictures by name.

    Raises:
        ConfigurationError: no such file or model, or a model that fails its self-check.
    """
    keep_freed_memory()
    files = find_pictures(sources)
    folders = find_models(settings.models)
    folder = folders[choose_default(folders, model or settings.default_model)]
    device = torch.device(settings.first_device(torch.cuda.is_available()))
    loaded = load(folder)
    served = ServedModel(loaded, folder.card, device)
    threads = settings.threads or usable_cores()
    Stopwatch(served).tune(Tuning("channels_last", threads) if len(files) == 1 else None, threads)
    decoder = ImageDecoder(loaded.input, settings.max_pixels)
    with torch.inference_mode():
        report = served.check([1, served.cap] if len(files) > 1 else [1])
        if not report.passed:
            raise ConfigurationError.at(folder.path, "proof", report.refusal, "fix the model's code")
        predictions = list(_predict_all(files, served, decoder, top_k))
    return FilePredictions(folder.name, loaded.version, predictions)


def find_pictures(sources: list[str]) -> list[str]:
    """Return the files that the arguments mean.

    Raises:
        ConfigurationError: one is not there, or a folder holds no picture; all such at once.
    """
    files: list[str] = []
    problems = []
    for source in sources:
        path = Path(source)
        inside = _pictures_in(path) if path.is_dir() else [path]
        if source != "-" and not path.exists():
            problems.append(f"{source}: there is no such file; name a picture, a folder, or - for standard input")
        if not inside:
            problems.append(f"{source}: no picture in this folder; it needs files that end in {', '.join(SUFFIXES)}")
        files += map(str, inside)
    if problems:
        raise ConfigurationError(problems)
    return files


def _pictures_in(folder: Path) -> list[Path]:
    """Return the pictures below a folder, sorted, without hidden ones such as macOS's `._photo.jpg`."""
    found = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    return sorted(file for file in found if not any(part[0] == "." for part in file.relative_to(folder).parts))


def _predict_all(files: list[str], served: ServedModel, decoder: ImageDecoder, top_k: int) -> Iterator[FilePrediction]:
    with ThreadPoolExecutor(usable_cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        decoded = pool.map(lambda source: _decode(decoder, source), files)
        hidden = len(files) == 1 or not sys.stderr.isatty()
        progress = track(decoded, "Predicting", len(files), console=Console(stderr=True), disable=hidden)
        pairs = zip(files, progress, strict=True)
        while batch := list(islice(pairs, served.cap)):
            yield from _predict_batch(batch, served, top_k)


def _decode(decoder: ImageDecoder, source: str) -> Tensor | str:
    """Return the input tensor, or why there is none."""
    try:
        return decoder.decode(sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes())
    except Refusal as refusal:
        return refusal.detail
    except OSError as error:
        return error.strerror or str(error)


def _predict_batch(batch: list[tuple[str, Tensor | str]], served: ServedModel, top_k: int) -> Iterator[FilePrediction]:
    tensors = [tensor for _, tensor in batch if isinstance(tensor, Tensor)]
    rows: Iterator[tuple[list[float], list[int]]] = iter(())
    if tensors:
        probabilities, ids = best_classes(served.run_batch(torch.stack(tensors)), top_k, served.activation)
        rows = zip(probabilities.tolist(), ids.tolist(), strict=True)
    for source, tensor in batch:
        if isinstance(tensor, str):
            yield FilePrediction(_shown(source), error=tensor)
        else:
            row, class_ids = next(rows)
            yield FilePrediction(_shown(source), prediction(class_ids, row, served.loaded.labels))


def _shown(source: str) -> str:
    """Return a file's name as it is in the file system, whatever the locale made of its bytes."""
    return os.fsencode(source).decode("utf-8", "surrogateescape")
