"""The buffers in which examples are put side by side before a forward."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

#: Batches under way at a time; each has a slot of its own.
SLOTS = 2


class Staging:
    """One buffer of `(cap, C, H, W) uint8` on the CPU for each slot.

    Args:
        sizes: the batch sizes, in ascending order; the last one is the cap.
        shape: channels, height and width of one example.
        pinned: whether the buffers are in pinned memory. Only from there can a copy to a GPU run beside the host.
    """

    def __init__(self, sizes: Sequence[int], shape: tuple[int, int, int], pinned: bool) -> None:
        buffers = [torch.zeros((sizes[-1], *shape), dtype=torch.uint8, pin_memory=pinned) for _ in range(SLOTS)]
        self._bytes = [buffer.numpy().reshape(-1).data for buffer in buffers]
        self._example_bytes = math.prod(shape)
        # Views of the first examples, by their bytes: made for each batch, one costs as much as to fill it with one.
        self._views = [{self._example_bytes * size: buffer[:size] for size in sizes} for buffer in buffers]

    def collate(self, parts: Iterable[memoryview], slot: int) -> Tensor:
        """Put examples side by side.

        Returns:
            `(N, C, H, W) uint8`, valid until the next call for the slot; N must be one of the sizes.
        """
        there, end = self._bytes[slot], 0
        for part in parts:
            start, end = end, end + len(part)
            there[start:end] = part
        return self._views[slot][end]

    def as_it_is(self, size: int) -> Tensor:
        """Return a batch of whatever is in the first slot, for a forward whose answers nobody reads."""
        return self._views[0][self._example_bytes * size]
