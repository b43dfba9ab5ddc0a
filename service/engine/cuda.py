"""A forward on a GPU: begun without waiting for it, two batches at a time, all its kernels launched at once.

Pixels come from pinned memory on a stream of their own, beside the kernels of the batch before; a batch's kernels are
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
from torch import Tensor

from service.engine.forwards import DeviceForward, Running
from service.engine.staging import SLOTS

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
        outputs: what the module gives, once the kernels are done.
        done: is recorded after the last kernel.
        arrived, free: the memory that the pixels are in, and where it goes when the kernels are done.
    """

    outputs: Any
    done: torch.cuda.Event
    arrived: Tensor
    free: list[Tensor]

    def wait(self) -> Any:
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
        shape: channels, height and width of one example.

    Attributes:
        recorded: the batch sizes that are replayed.
    """

    def __init__(self, forward: DeviceForward, cap: int, shape: tuple[int, int, int], device: torch.device) -> None:
        self.threads = forward.threads
        self._forward = forward
        self._cap = cap
        self._copying, self._computing = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
        with torch.inference_mode(False):  # so that they can be written to in any mode
            pixels = torch.zeros((1 + SLOTS, cap, *shape), dtype=torch.uint8, device=device)
        self._seen, *self._free = pixels  # what graphs read, and where batches arrive
        self._pool: Any = None
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        torch.cuda.synchronize(device)  # its streams wait for no other one: what they read has to be there

    @property
    def recorded(self) -> list[int]:
        return sorted(self._graphs)

    @property
    def overlaps_from(self) -> int:
        return OVERLAPS_FROM if self._graphs else 0

    def begin(self, pixels: Tensor) -> Running:
        """Copy a batch and queue its kernels."""
        if len(pixels) > self._cap:
            return self._forward.begin(pixels)
        arrived = self._free.pop()
        try:
            with torch.cuda.stream(self._copying):
                here = arrived[: len(pixels)]
                here.copy_(pixels, non_blocking=True)
            self._computing.wait_stream(self._copying)
            with torch.cuda.stream(self._computing):
                outputs = self._launch(here)
                done = self._computing.record_event()
        except BaseException:
            self._free.append(arrived)
            raise
        return Launched(outputs, done, arrived, self._free)

    def _launch(self, pixels: Tensor) -> Any:
        if len(pixels) not in self._graphs:
            return self._forward.compute(pixels)
        graph, outputs = self._graphs[len(pixels)]
        self._seen[: len(pixels)].copy_(pixels)
        graph.replay()
        return outputs.clone()  # the next replay writes there too

    def record(self, sizes: Sequence[int]) -> None:
        """Replay batches of these sizes from now on; the largest first, in whose memory the others find room.

        Raises:
            Exception: the forward cannot be recorded: it waits for the GPU, or needs the CPU in between.
        """
        for size in sorted(sizes, reverse=True):
            self._graphs[size] = self._record(self._seen[:size])

    def _record(self, pixels: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        self._computing.synchronize()
        with torch.cuda.stream(self._computing), _waiting_is_an_error():
            self._forward.compute(pixels)  # what is made on first use is made outside the graph
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.stream(torch.cuda.current_stream()),  # which a recording that fails would leave another one
            torch.cuda.graph(graph, pool=self._pool, stream=self._computing),
        ):
            outputs = self._forward.compute(pixels)
        if not isinstance(outputs, Tensor):
            raise TypeError(f"the model returned {type(outputs).__name__}")
        self._pool = graph.pool()
        return graph, outputs


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
