"""`gradless bench --tune`: find the memory format, the threads and the batch size that make a model fastest."""

from __future__ import annotations

import copy
import datetime
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from service.bench.machine import computes_bfloat16
from service.engine.batcher import ladder
from service.engine.cache_keys import tuning_key
from service.engine.forwards import on_device
from service.engine.measure import Stopwatch, layouts
from service.engine.model import ServedModel
from service.errors import ConfigurationError
from service.host.allocator import keep_freed_memory
from service.host.cores import usable_cores
from service.loader.artefact import Records
from service.loader.load import load
from service.loader.repository import ModelFolder, choose_default, find_models, pick
from service.loader.tuning import Timing, Tuned, Tuning
from service.settings import Settings
from service.tasks.adapters.flattening import scores_of

#: The largest batch tried; a card's own cap is never exceeded.
MOST = {"cpu": 64, "cuda": 256}
#: A smaller batch is as good as the best if it reaches this share of its examples/s: latency then decides.
GOOD_ENOUGH = 0.97
#: Time for each candidate, and its least number of forwards.
SECONDS, FORWARDS = 0.3, 3


def tune(settings: Settings, models: list[str], latency_target_ms: float, as_json: bool) -> None:
    """Measure, write for the next start, and print.

    Raises:
        ConfigurationError: no such model, nothing meets the target, or the cache cannot be written.
    """
    keep_freed_memory()
    folders = find_models(settings.models)
    chosen = pick(folders, models or [choose_default(folders, settings.default_model)], "bench")
    device = torch.device(settings.first_device(torch.cuda.is_available()))
    for folder in chosen.values():
        _tune(settings, folder, device, latency_target_ms, as_json)


def _tune(settings: Settings, folder: ModelFolder, device: torch.device, target_ms: float, as_json: bool) -> None:
    threads = settings.threads or usable_cores()
    loaded = load(folder)
    key = tuning_key(loaded, device, threads)
    most = folder.card.batching.max_batch_size or MOST[device.type]
    trial = Tuned(Tuning("contiguous_format", threads, most), [], 0.0, "")
    model = ServedModel(loaded, device, trial)
    timings = list(_timings(model, threads, device))
    tuning = choose(timings, target_ms)
    made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    tuned = Tuned(tuning, timings, target_ms, made)
    try:
        file = Records(settings.cache).write_tuned(key, tuned)
    except OSError as error:
        words, fix = error.strerror or str(error), "name a folder that can be written"
        raise ConfigurationError.at("--cache", str(settings.cache), words, fix) from error
    if as_json:
        print(msgspec.json.format(msgspec.json.encode({"model": folder.name} | msgspec.to_builtins(tuned))).decode())
    else:
        _show(folder.name, tuned, file)
    if words := bfloat16(model, tuning, device):
        Console(stderr=True).print(words, highlight=False)


def _timings(model: ServedModel, threads: int, device: torch.device) -> Iterator[Timing]:
    counts = sorted({1, threads}) if device.type == "cpu" else [threads]
    sizes = ladder(model.cap)
    stopwatch = Stopwatch(model)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(model.loaded.name, total=len(layouts(model)) * len(counts) * len(sizes))
        for name in layouts(model):
            for count in counts:
                for size in sizes:
                    yield Timing(name, count, size, stopwatch.time(Tuning(name, count), size, SECONDS, FORWARDS))
                    progress.advance(task)


def choose(timings: list[Timing], target_ms: float) -> Tuning:
    """The smallest batch that gives nearly the most examples/s of all that meet the target, and how it gives them.

    Raises:
        ConfigurationError: not even one example meets the target.
    """
    if target_ms and not (good := [timing for timing in timings if timing.seconds * 1000 <= target_ms]):
        fastest = min(timing.seconds for timing in timings) * 1000
        words = f"the fastest forward takes {fastest:.1f} ms"
        raise ConfigurationError.at("--latency-target", f"{target_ms:g}", words, "ask for more")
    good = good if target_ms else timings
    most = max(timing.batch_size / timing.seconds for timing in good)
    enough = [timing for timing in good if timing.batch_size / timing.seconds >= GOOD_ENOUGH * most]
    found = min(enough, key=lambda timing: (timing.batch_size, timing.seconds))
    return Tuning(found.memory_format, found.threads, found.batch_size)


def _show(name: str, tuned: Tuned, file: Path) -> None:
    chosen = tuned.tuning
    table = Table(title=f"{name}: examples/s of the forward by batch size", title_justify="left")
    sizes = sorted({timing.batch_size for timing in tuned.timings})
    for column, heading in enumerate(["memory format", "threads", *map(str, sizes)]):
        table.add_column(heading, justify="right" if column else "left")
    rows: dict[tuple[str, int], dict[int, float]] = {}
    for timing in tuned.timings:
        rates = rows.setdefault((timing.memory_format, timing.threads), {})
        rates[timing.batch_size] = timing.batch_size / timing.seconds
    for (memory_format, threads), rates in rows.items():
        mine = (memory_format, threads) == (chosen.memory_format, chosen.threads)
        cells = [f"{rates[size]:.1f}{' *' if mine and size == chosen.cap else ''}" for size in sizes]
        table.add_row(memory_format, str(threads), *cells)
    Console().print(table)
    print(f"From the next start on (*): {chosen.memory_format}, {chosen.threads} threads, batches up to {chosen.cap}.")
    print(f"Written to {file}")


def bfloat16(model: ServedModel, tuning: Tuning, device: torch.device) -> str:
    """One line of what bfloat16 would win and change here; empty where the hardware does not compute in it."""
    real = model.adapter.preparation.real_examples(tuning.cap) if computes_bfloat16(device) else None
    if real is None or model.card.task != "classification":
        return ""
    pixels = real[0]
    model.apply(tuning)
    with torch.inference_mode():
        [images], _ = model.adapter.preparation.forward(*on_device(real, device))
        full, full_seconds = _outputs(model.module, images)
        half, half_seconds = _outputs(copy.deepcopy(model.module).to(torch.bfloat16), images.to(torch.bfloat16))
    same = int((full.argmax(1) == half.argmax(1)).sum())
    return (
        f"bfloat16, which this machine computes in, would take {half_seconds / full_seconds:.2f} of the time at batch "
        f"{len(pixels)}; probabilities differ by up to {(full - half).abs().max():.1e}, "
        f"{same} of {len(pixels)} photographs keep their class. It is not switched on."
    )


def _outputs(module: torch.nn.Module, images: Tensor) -> tuple[Tensor, float]:
    """Probabilities in float32, and seconds of the best forward."""
    seconds = []
    for _ in range(FORWARDS + 1):
        began = time.perf_counter()
        scores = scores_of(module(images))
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        seconds.append(time.perf_counter() - began)
    return torch.softmax(scores.float(), dim=1), min(seconds)
