"""Measuring a model: its batches' times, and the memory format and threads with which it runs fastest."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import torch

from service.engine.cuda import CannotRecordError
from service.engine.forwards import MEMORY_FORMATS
from service.engine.model import ServedModel, nothing
from service.loader.compiled import Arrays
from service.loader.tuning import Tuning

#: A forward at the cap that one thread does in this time, or in this share of the time of several, keeps to one thread.
#: On a busy machine a tiny forward in two threads can take 50 ms: what is measured there must not be wrong for good.
SHORT_SECONDS, MUCH_SHORTER = 0.004, 0.5


def layouts(model: ServedModel) -> list[str]:
    """Return the memory formats that make a difference to a model, by their names."""
    return list(MEMORY_FORMATS) if model.adapter.preparation.has_layouts else ["contiguous_format"]


class Stopwatch:
    """Times one model's batches.

    Args:
        between: called before each forward, so that others need not wait for all of them.
    """

    def __init__(self, model: ServedModel, between: Callable[[], object] = nothing) -> None:
        self._model = model
        self._between = between

    def tune(self, known: Tuning | None, threads: int) -> None:
        """Lay the weights out, and take as many of `threads`, as measures fastest here; the module answers.

        `known` is what an earlier measurement found. Nothing has a fixed winner: channels_last triples
        EfficientNet-Lite0 on AVX-512 and slows other models down. And a second thread halves a long forward, but a
        tiny one mostly waits for it to be scheduled: a model of one layer served 430 examples/s with two threads on
        two busy cores, 1,830 with one.
        """
        tuned = self._model.tuned
        self._model.apply(tuned.tuning if tuned else known or self._fastest(threads))

    def _fastest(self, threads: int) -> Tuning:
        seconds = {tuning: self.time(tuning) for tuning in (Tuning(name, threads) for name in layouts(self._model))}
        fastest = min(seconds, key=lambda tuning: seconds[tuning])
        alone = Tuning(fastest.memory_format, 1)
        if self._model.device.type == "cpu":
            short = max(SHORT_SECONDS, MUCH_SHORTER * seconds[fastest])
            if self.time(alone) < short:
                return alone
        return fastest

    def time(self, tuning: Tuning, size: int = 0, seconds: float = 0.0, forwards: int = 3) -> float:
        """Lay the model out anew and time it.

        Args:
            size: of the batch, in examples; 0 for the cap.
            seconds, forwards: how long to go on, and how many forwards to run at least.

        Returns:
            Seconds of the best forward, after one that is not counted.
        """
        self._model.apply(tuning)
        with torch.inference_mode():
            return self.best_of(size or self._model.cap, forwards, seconds)

    def times(self, tuning: Tuning) -> dict[int, float]:
        """Seconds of the best forward at every batch size."""
        return {size: self.time(tuning, size) for size in self._model.sizes}

    def best_of(self, size: int, forwards: int, seconds: float = 0.0) -> float:
        """Time the model as it runs now, in this thread's mode; on a GPU as it will run, recorded if it can be."""
        with contextlib.suppress(CannotRecordError):
            self._model.record_cuda_graphs([size])
        arrays = self._model.staging.as_it_is(size)
        self._between()
        self._model.run_batch(arrays)
        end = time.perf_counter() + seconds
        times = [self._timed(arrays) for _ in range(forwards)]
        while time.perf_counter() < end:
            times.append(self._timed(arrays))
        return min(times)

    def _timed(self, arrays: Arrays) -> float:
        """Seconds a batch, with another one under way where that may be: as when many wait."""
        self._between()
        count = 2 if 0 < self._model.forward.overlaps_from <= len(arrays[0]) else 1
        began = time.perf_counter()
        for batch in [self._model.begin_batch(arrays) for _ in range(count)]:
            batch.wait()
        return (time.perf_counter() - began) / count
