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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

#: Batches under way: the pixels of one are copied while another one's are computed on.
AT_A_TIME = 2
#: Of as many examples each, where graphs are replayed: a forward that waits for the GPU would hold up the answers of
#: the batch before it. A GPU computes few hardly faster than many, but waiting for company leaves it idle.
OVERLAPS_FROM = 1


class CudaForward:
    """One forward on one GPU. Graphs are replayed in order on one stream, so that they share one another's memory.

    Args:
        forward: from `(N, 3, side, side) uint8` on the device to what the module gives.
        cap: the largest N.

    Attributes:
        recorded: the batch sizes that are replayed.
    """

    def __init__(self, forward: Callable[[Tensor], Any], cap: int, side: int, device: torch.device) -> None:
        self._forward = forward
        self._copying, self._computing = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
        with torch.inference_mode(False):  # so that they can be written to in any mode
            pixels = torch.zeros((1 + AT_A_TIME, cap, 3, side, side), dtype=torch.uint8, device=device)
        self._seen, *self._free = pixels  # what graphs read, and where batches arrive
        self._pool: Any = None
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        torch.cuda.synchronize(device)  # its streams wait for no other one: what they read has to be there

    @property
    def recorded(self) -> list[int]:
        return sorted(self._graphs)

    def begin(self, pixels: Tensor) -> Callable[[], Any]:
        """Copy a batch and queue its kernels; what is given back waits for them and gives the outputs.

        Args:
            pixels: `(N, 3, side, side) uint8` on the CPU, not to be changed until then.
        """
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

        def end() -> Any:
            try:
                done.synchronize()
            finally:
                self._free.append(arrived)
            return outputs

        return end

    def _launch(self, pixels: Tensor) -> Any:
        if len(pixels) not in self._graphs:
            return self._forward(pixels)
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
            self._forward(pixels)  # what is made on first use is made outside the graph
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.stream(torch.cuda.current_stream()),  # which a recording that fails would leave another one
            torch.cuda.graph(graph, pool=self._pool, stream=self._computing),
        ):
            outputs = self._forward(pixels)
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
