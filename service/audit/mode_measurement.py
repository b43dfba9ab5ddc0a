"""Measurement of one mode, in a process that loads the model afresh and has the memory for itself."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from service.audit.figures import YARDSTICK, ModeFigures
from service.audit.forward_costs import GraphWatch, MemoryTally, batchnorm_statistics, known_tensors
from service.audit.fresh_process import answering
from service.audit.modes import PLAIN_MODES, classifier_of
from service.engine.forwards import on_device
from service.engine.measure import Stopwatch
from service.engine.model import ServedModel
from service.errors import ModelOutputInvalid
from service.host.allocator import keep_freed_memory
from service.host.cores import usable_cores
from service.loader.compiled import Arrays
from service.loader.freeze import freeze, memory_bytes
from service.loader.load import load
from service.loader.prepared import preparation_of
from service.loader.repository import ModelFolder
from service.loader.weights import build

#: Latency is the median of at most this many forwards within this time, but always of the least number.
MOST_FORWARDS, LEAST_FORWARDS, LATENCY_SECONDS = 30, 5, 2.0

#: <malloc.h>: M_MMAP_THRESHOLD.
_MMAP_THRESHOLD = -3
_RESET_PEAK = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class ModelOrder:
    """The work of a child. `threads` 0 means one a core."""

    folder: ModelFolder
    device: str
    batch_size: int
    threads: int


@dataclass
class Subject:
    """A model in a mode: `run` takes an array for each input and gives the module's output, inside `context()`.

    Attributes:
        prepare: puts the module into the mode, again after another subject of the same module had it.
        yardstick: makes the subject that its latency is held against.
    """

    module: nn.Module
    run: Callable[[Arrays], Any]
    context: Callable[[], AbstractContextManager[object]]
    arrays: Arrays
    device: torch.device
    prepare: Callable[[], object]
    yardstick: Callable[[], Subject]
    layout: str = "contiguous"

    def forward(self) -> Tensor:
        """Return the first tensor of the output: some models give more while they train."""
        with self.context():
            output = next((leaf for leaf in tree_leaves(self.run(self.arrays)) if isinstance(leaf, Tensor)), None)
        if output is None:
            raise ModelOutputInvalid("The model gave no tensor.")
        if output.device.type == "cuda":
            torch.cuda.synchronize(output.device)
        return output


def measure_reference(connection: Connection, order: ModelOrder) -> None:
    """Entry point of the first child: sends the weights' size and each example's answer alone, eval() and frozen."""
    with answering(connection) as answer:
        subject = plain_subject(order, YARDSTICK)
        freeze(subject.module)
        together = subject.arrays
        rows = []
        for place in range(order.batch_size):
            subject.arrays = tuple(array[place : place + 1] for array in together)
            with torch.inference_mode():
                rows.append(subject.forward().float().cpu())
        answer((sum(memory_bytes(subject.module).values()), torch.cat(rows).numpy()))


def measure_mode(connection: Connection, order: ModelOrder, mode: str, reference: Any) -> None:
    """Entry point of a mode's child: sends its figures."""
    with answering(connection) as answer:
        subject = served_subject(order) if mode == "served" else plain_subject(order, mode)
        answer(figures_of(subject, mode, torch.from_numpy(reference)))


def plain_subject(order: ModelOrder, mode: str) -> Subject:
    """Return the module as its author wrote it, put into a mode, behind the preparation of serving."""
    device = _begin(order)
    module = build(order.folder).float().to(device)
    classifier = classifier_of(order.folder, module)
    preparation = preparation_of(order.folder, module).to(device)
    arrays = preparation.examples(order.batch_size)

    def run(arrays: Arrays) -> Any:
        positional, by_name = preparation.forward(*on_device(arrays, device))
        return module(*positional, **by_name)

    def in_mode(name: str) -> Subject:
        prepare = partial(PLAIN_MODES[name].prepare, module, classifier)
        return Subject(module, run, PLAIN_MODES[name].context, arrays, device, prepare, partial(in_mode, YARDSTICK))

    return in_mode(mode)


def served_subject(order: ModelOrder) -> Subject:
    """Return the function that answers requests, tuned and warmed up as in an engine."""
    device = _begin(order)
    loaded = load(order.folder)
    served = ServedModel(loaded, device)
    Stopwatch(served).tune(None, torch.get_num_threads())
    arrays = served.examples(order.batch_size)
    layout = served.tuning.memory_format.removesuffix("_format")
    yardstick = partial(plain_subject, order, YARDSTICK)  # a module of its own: this one's weights are laid out anew
    mode = torch.inference_mode
    return Subject(loaded.module, served.run_batch, mode, arrays, device, lambda: None, yardstick, layout)


def _begin(order: ModelOrder) -> torch.device:
    torch.set_num_threads(order.threads or usable_cores())
    torch.manual_seed(0)
    return torch.device(order.device)


def figures_of(subject: Subject, mode: str, reference: Tensor) -> ModeFigures:
    """Measure every figure of a mode; an exception of the model is recorded as one.

    Args:
        reference: `(N, classes) float32`.
    """
    figures = ModeFigures(mode=mode, layout=subject.layout, parameters=len(list(subject.module.parameters())))
    try:
        subject.prepare()
        _measure_memory(subject, figures)
        first = _measure_graph(subject, figures)
        figures.max_difference = _difference(first, reference)
        figures.repeatable = torch.equal(subject.forward().detach(), subject.forward().detach())
        keep_freed_memory()  # as an engine does; only now, because it hides what a forward takes
        _measure_latency(subject, figures)
        _measure_backward(subject, figures)
    except (RuntimeError, ValueError, TypeError, ModelOutputInvalid) as error:
        figures.error = _first_line(error)
    return figures


def _measure_memory(subject: Subject, figures: ModeFigures) -> None:
    subject.forward()  # creates what is made once, such as primitives and threads
    if subject.device.type == "cuda":
        figures.peak_bytes = _cuda_peak(subject)
        return
    figures.rss_bytes = _rss_growth(subject)
    with MemoryTally(known_tensors(subject.module, *subject.arrays)) as tally:
        subject.forward()
    figures.peak_bytes = tally.peak_bytes


def _cuda_peak(subject: Subject) -> int:
    torch.cuda.synchronize(subject.device)
    before = torch.cuda.memory_allocated(subject.device)
    torch.cuda.reset_peak_memory_stats(subject.device)
    subject.forward()
    return torch.cuda.max_memory_allocated(subject.device) - before


def _rss_growth(subject: Subject) -> int | None:
    """Return the bytes that a forward makes the process grow by; None if the kernel does not say.

    Memory that malloc has kept would hide the growth, so malloc returns it first.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim") or not _RESET_PEAK.exists():
        return None
    libc.mallopt(_MMAP_THRESHOLD, 1 << 17)  # set once, it no longer grows: a large block goes back when it is freed
    libc.malloc_trim(0)
    _RESET_PEAK.write_bytes(b"5")  # proc(5): the peak starts again from what the process has now
    before = _resident("VmRSS")
    subject.forward()
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text("utf-8", "replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _measure_graph(subject: Subject, figures: ModeFigures) -> Tensor:
    """Count one forward, and give its output without its graph."""
    before = batchnorm_statistics(subject.module)
    with GraphWatch(known_tensors(subject.module, *subject.arrays)) as watch:
        output = subject.forward()
    figures.graph_nodes, figures.held_bytes = watch.graph_nodes, watch.held_bytes
    figures.saved_tensors, figures.saved_bytes = watch.saved_tensors, watch.saved_bytes
    after = batchnorm_statistics(subject.module)
    if before:
        figures.batchnorm_changed = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    return output.detach().float().cpu()


def _difference(output: Tensor, reference: Tensor) -> float:
    """Return the largest difference, as a share of the largest reference."""
    return ((output - reference).abs().max() / reference.abs().max().clamp(min=1e-30)).item()


def _measure_latency(subject: Subject, figures: ModeFigures) -> None:
    """Measure medians. The yardstick takes turns with the mode, so that a busy machine slows both alike."""
    yardstick = subject.yardstick()
    pairs: list[tuple[float, float]] = []
    while len(pairs) < LEAST_FORWARDS or (len(pairs) < MOST_FORWARDS and sum(map(sum, pairs)) < LATENCY_SECONDS):
        pairs.append((_timed(subject), _timed(yardstick)))
    figures.latency_ms = statistics.median(seconds for seconds, _ in pairs) * 1000
    figures.latency_ratio = statistics.median(seconds / against for seconds, against in pairs)
    subject.prepare()


def _timed(subject: Subject) -> float:
    """Return the seconds of a forward, with the graph of the one before already dropped."""
    subject.prepare()
    began = time.perf_counter()
    subject.forward()
    return time.perf_counter() - began


def _measure_backward(subject: Subject, figures: ModeFigures) -> None:
    """Call backward() from a loss over the output, outside the mode: forward has settled whether there is a graph."""
    output = subject.forward()
    try:
        output.float().square().mean().backward()  # type: ignore[no-untyped-call]
        figures.backward = True
    except RuntimeError as error:
        figures.backward, figures.backward_error = False, _first_line(error)
    figures.gradients = [name for name, p in subject.module.named_parameters() if p.grad is not None]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
