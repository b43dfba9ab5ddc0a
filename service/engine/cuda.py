"""A forward on a GPU: begun without waiting for it, two batches at a time, all its kernels launched at once.

Arrays come from pinned memory on a stream of their own, beside the kernels of the batch before; a batch's kernels are
queued before that one has ended. And a CUDA graph launches all kernels of a forward at once, where eager launches each
from Python: of a small batch that takes several times longer than to compute it.

Sources: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs,
https://docs.pytorch.org/docs/stable/notes/cuda.html#use-pinned-memory-buffers
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from service.engine.forwards import DeviceForward, Running
from service.engine.staging import SLOTS
from service.loader.compiled import Arrays
from service.signature import TensorSpec

#: Smallest batch that overlaps another one where graphs are replayed: a forward that waits for the GPU would hold up
#: the answers of the batch before it. A GPU computes a small batch hardly faster than a large one, but waiting for
#: company leaves it idle.
OVERLAPS_FROM = 1


class CannotRecordError(Exception):
    """A GPU has to be given the kernels of a forward one by one; the message says why."""


@dataclass(slots=True)
class Launched:
    """A batch whose kernels are queued.

    Attributes:
        outputs: those of the model, once the kernels are done.
        done: is recorded after the last kernel.
        arrived, free: the memory that the arrays are in, and where it goes when the kernels are done.
    """

    outputs: Arrays
    done: torch.cuda.Event
    arrived: Arrays
    free: list[Arrays]

    def wait(self) -> Arrays:
        try:
            self.done.synchronize()
        finally:
            self.free.append(self.arrived)
        return self.outputs


class CudaForward:
    """One forward on one GPU. Graphs are replayed in order on one stream, so that they share one another's memory.

    Args:
        forward: computes what is on the GPU. It is left to itself with a batch larger than the cap.
        cap: the largest batch, in examples.
        inputs: of one example.

    Attributes:
        buffers: the memory in which batches arrive.
    """

    def __init__(self, forward: DeviceForward, cap: int, inputs: Sequence[TensorSpec], device: torch.device) -> None:
        self.threads = forward.threads
        self._forward = forward
        self._cap = cap
        self._copying, self._computing = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
        with torch.inference_mode(False):  # so that they can be written to in any mode
            memory = [
                torch.zeros((1 + SLOTS, cap, *spec.shape), dtype=getattr(torch, spec.dtype), device=device)
                for spec in inputs
            ]
        self.buffers = memory
        self._seen, *self._free = zip(*memory, strict=True)  # what graphs read, and where batches arrive
        self._pool: Any = None
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Arrays]] = {}
        torch.cuda.synchronize(device)  # its streams wait for no other one: what they read has to be there

    @property
    def recorded(self) -> list[int]:
        return sorted(self._graphs)

    @property
    def overlaps_from(self) -> int:
        return OVERLAPS_FROM if self._graphs else 0

    def begin(self, arrays: Arrays) -> Running:
        """Copy a batch and queue its kernels."""
        count = len(arrays[0])
        if count > self._cap:
            return self._forward.begin(arrays)
        arrived = self._free.pop()
        try:
            with torch.cuda.stream(self._copying):
                here = _first(arrived, count)
                for there, array in zip(here, arrays, strict=True):
                    there.copy_(array, non_blocking=True)
            self._computing.wait_stream(self._copying)
            with torch.cuda.stream(self._computing):
                outputs = self._launch(here)
                done = self._computing.record_event()
        except BaseException:
            self._free.append(arrived)
            raise
        return Launched(outputs, done, arrived, self._free)

    def _launch(self, arrays: Arrays) -> Arrays:
        count = len(arrays[0])
        if count not in self._graphs:
            return self._forward.compute(arrays)
        graph, outputs = self._graphs[count]
        for seen, array in zip(_first(self._seen, count), arrays, strict=True):
            seen.copy_(array)
        graph.replay()
        return tuple([output.clone() for output in outputs])  # the next replay writes there too

    def record(self, sizes: Sequence[int]) -> None:
        """Replay batches of these sizes from now on; the largest first, in whose memory the others find room.

        Raises:
            Exception: the forward cannot be recorded: it waits for the GPU, or needs the CPU in between.
        """
        for size in sorted(sizes, reverse=True):
            self._graphs[size] = self._record(_first(self._seen, size))

    def _record(self, arrays: Arrays) -> tuple[torch.cuda.CUDAGraph, Arrays]:
        self._computing.synchronize()
        with torch.cuda.stream(self._computing), _waiting_is_an_error():
            self._forward.compute(arrays)  # what is made on first use is made outside the graph
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.stream(torch.cuda.current_stream()),  # which a recording that fails would leave another one
            torch.cuda.graph(graph, pool=self._pool, stream=self._computing),
        ):
            outputs = self._forward.compute(arrays)
        self._pool = graph.pool()
        return graph, outputs


def _first(arrays: Arrays, count: int) -> Arrays:
    return tuple([array[:count] for array in arrays])


@contextlib.contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    """Inside, what waits for the GPU raises: in a recording it would fail too, and leave more to clear up."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(action="ignore"):  # that it does not know everything that waits
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
