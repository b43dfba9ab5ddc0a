"""The buffers in which examples are put side by side before a forward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from service.loader.compiled import Arrays
from service.signature import TensorSpec

#: Batches under way at a time; each has a slot of its own.
SLOTS = 2


#: A slot takes at most this much memory, and so do a batch's outputs: with larger examples the cap is smaller (bytes).
MOST_SLOT_BYTES = 64 * 1024 * 1024


def cap_of(example_bytes: int) -> int:
    """Return the most examples of a size that a batch may have; at least one."""
    return max(1, MOST_SLOT_BYTES // max(1, example_bytes))


class Staging:
    """Buffers of `(cap, *shape)` on the CPU, one for each input and slot.

    Args:
        sizes: the batch sizes, in ascending order; the last one is the cap.
        inputs: of one example.
        pinned: whether the buffers are in pinned memory. Only from there can a copy to a GPU run beside the host.
    """

    def __init__(self, sizes: Sequence[int], inputs: Sequence[TensorSpec], pinned: bool) -> None:
        self._slots = [_Slot(sizes, inputs, pinned) for _ in range(SLOTS)]

    @property
    def buffers(self) -> list[Tensor]:
        """Return the memory of all slots."""
        return [buffer for slot in self._slots for buffer in slot.buffers]

    def collate(self, parts: Iterable[Sequence[memoryview]], slot: int) -> Arrays:
        """Put examples side by side.

        Args:
            parts: the bytes of one or several examples, a block for each input.

        Returns:
            `(N, *shape)` for each input, valid until the next call for the slot; N must be one of the sizes.
        """
        return self._slots[slot].collate(parts)

    def as_it_is(self, size: int) -> Arrays:
        """Return a batch of whatever is in the first slot, for a forward whose answers nobody reads."""
        return self._slots[0].views[size]

    def fill(self, arrays: Sequence[Tensor]) -> None:
        """Put examples into the first slot, for `as_it_is` to find: ids must be rows of their embeddings."""
        for buffer, array in zip(self._slots[0].buffers, arrays, strict=True):
            buffer[: len(array)].copy_(array)


class _Slot:
    """One buffer for each input."""

    def __init__(self, sizes: Sequence[int], inputs: Sequence[TensorSpec], pinned: bool) -> None:
        self.buffers = [
            torch.zeros((sizes[-1], *spec.shape), dtype=getattr(torch, spec.dtype), pin_memory=pinned)
            for spec in inputs
        ]
        self._bytes = [buffer.reshape(-1).view(torch.uint8).numpy().data for buffer in self.buffers]
        self._example_bytes = inputs[0].nbytes
        # Views of the first examples: made for each batch, one costs as much as to fill it with one.
        self.views = {size: tuple(buffer[:size] for buffer in self.buffers) for size in sizes}

    def collate(self, parts: Iterable[Sequence[memoryview]]) -> Arrays:
        ends = [0] * len(self._bytes)
        for part in parts:
            for place, block in enumerate(part):
                start = ends[place]
                end = ends[place] = start + len(block)
                self._bytes[place][start:end] = block
        return self.views[ends[0] // self._example_bytes]
