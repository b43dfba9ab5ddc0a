"""The loop that people write by hand: decode, resize, batch, forward. Serving is measured against it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from itertools import cycle, islice
from multiprocessing.connection import Connection

import torch

from service.bench.pictures import bench_pictures
from service.cores import usable_cores
from service.engine.model import ServedModel
from service.loader.load import load
from service.loader.report import Tuning
from service.loader.repository import ModelFolder
from service.settings import Settings
from service.tasks.classification import ImageDecoder, best_classes


def run_bare_loop(connection: Connection, folder: ModelFolder, memory_format: str, settings: Settings) -> None:
    """Entry point of the bare loop's process: answers `(batch_size, seconds)` with pictures/s and median ms a batch.

    It has the process for itself, as a hand-written script would, and the memory format that the server chose.
    """
    torch.set_num_threads(settings.threads or usable_cores())
    device = torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")
    model = ServedModel(load(folder), folder.card, device)
    model.tune(Tuning(memory_format, torch.get_num_threads()), torch.get_num_threads())
    decoder = ImageDecoder(model.loaded.input, settings.max_pixels)
    with torch.inference_mode():
        model.warm_up(model.sizes)
        while (order := connection.recv()) is not None:
            connection.send(_run(model, decoder, *order))


def _run(model: ServedModel, decoder: ImageDecoder, batch_size: int, seconds: float) -> tuple[float, float]:
    times = []
    end = time.perf_counter() + seconds
    for files in _batches(batch_size, model.loaded.input.crop):
        began = time.perf_counter()
        pixels = torch.stack([decoder.decode(file) for file in files])
        best_classes(model.run_batch(pixels), 5)
        times.append(time.perf_counter() - began)
        if time.perf_counter() > end:
            break
    return batch_size * len(times) / sum(times), statistics.median(times) * 1000


def _batches(size: int, crop: int) -> Iterator[list[bytes]]:
    pictures = cycle(bench_pictures(crop))
    while True:
        yield list(islice(pictures, size))
