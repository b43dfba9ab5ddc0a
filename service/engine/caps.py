"""The learned cap of a batch: smaller after out-of-memory, back step by step when all goes well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from service.engine.batcher import Batcher
from service.metrics import Metrics

log = structlog.get_logger()

#: So many full batches have to go well before a larger one is tried; the memory was short for a reason.
BATCHES_TO_RECOVER = 200


class Caps:
    """Sets the largest batch of each model, which the batcher then forms.

    Args:
        sizes: each model's ladder.
        batcher: forms the batches.
    """

    def __init__(self, sizes: Mapping[str, Sequence[int]], batcher: Batcher, metrics: Metrics) -> None:
        self._sizes: dict[str, Sequence[int]] = {}
        self._batcher = batcher
        self._gauge = metrics.batch_cap
        self._well: dict[str, int] = {}
        for model, steps in sizes.items():
            self.learn(model, steps)

    def learn(self, model: str, sizes: Sequence[int]) -> None:
        """Look after one more model."""
        self._sizes[model] = sizes
        self._gauge.labels(model).set(sizes[-1])

    def too_large(self, model: str, size: int) -> None:
        """A batch of `size` found too little memory: the next smaller size is the cap."""
        smaller = [step for step in self._sizes[model] if step < size]
        if smaller and smaller[-1] < self._batcher.cap(model):
            self._set(model, smaller[-1])

    def went_well(self, model: str, size: int) -> None:
        """A batch was run, in one or in pieces."""
        larger = [step for step in self._sizes[model] if step > self._batcher.cap(model)]
        if not larger or size < self._batcher.cap(model):
            return
        self._well[model] = self._well.get(model, 0) + 1
        if self._well[model] > BATCHES_TO_RECOVER:
            self._set(model, larger[0])

    def _set(self, model: str, cap: int) -> None:
        log.warning("batch cap changed", model=model, before=self._batcher.cap(model), now=cap)
        self._well[model] = 0
        self._gauge.labels(model).set(cap)
        self._batcher.set_cap(model, cap)
