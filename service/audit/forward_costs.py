"""Costs of one forward in nodes, saved tensors and memory: hooks, autograd's counter, a tally of operators' outputs.

They slow a forward down, so the forward whose time counts runs without them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_iter

from service.loader.freeze import tensors
from service.loader.operators import around_operators
from service.loader.sensors import sequence_number


class GraphWatch:
    """Counts what is built and saved for a backward pass inside `with`, in this thread.

    Args:
        known: tensors whose memory is there anyway (weights, the batch): `held_bytes` leaves it out.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._held: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._saved, lambda packed: packed)
        self.graph_nodes = self.saved_tensors = self.saved_bytes = 0

    def __enter__(self) -> GraphWatch:
        self._hooks.__enter__()
        self._first_node = sequence_number()
        return self

    def __exit__(self, *error: object) -> None:
        self.graph_nodes = sequence_number() - self._first_node
        self._hooks.__exit__(*error)

    @property
    def held_bytes(self) -> int:
        """Return the bytes of every storage held, each once: a saved view keeps all of its storage."""
        return sum(self._held.values())

    def _saved(self, tensor: Tensor) -> Tensor:
        self.saved_tensors += 1
        self.saved_bytes += tensor.numel() * tensor.element_size()
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._held[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output that its own node saves would hold its graph forever


class MemoryTally:
    """The most memory at once of the tensors that operators give inside `with`, weights and batch not among them.

    torch's CPU allocator keeps no peak. Its profiler does, but writes to the terminal on machines without a GPU. What
    an operator allocates and frees within itself is not seen here; tests hold the tally against the kernel's count.

    Attributes:
        peak_bytes: storages alive at once, each counted once, from its first sight to its last reference.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        # Weak references: they keep a storage's address from being used again, and nothing else of it.
        self._known = [_weak(tensor.untyped_storage()) for tensor in known]
        self._addresses = {reference.cdata for reference in self._known}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self._mode = around_operators(self._operator)
        self.peak_bytes = 0

    def __enter__(self) -> MemoryTally:
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        self._mode.__exit__(*error)  # type: ignore[no-untyped-call]

    def _operator(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = operator(*args, **kwargs)
        for leaf in tree_iter(output):
            if isinstance(leaf, Tensor) and leaf.layout is torch.strided:
                self._add(leaf.untyped_storage())
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}  # type: ignore[no-untyped-call]
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self._alive.values()))
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        reference = _weak(storage)
        if reference.cdata not in self._addresses:
            self._alive[reference.cdata] = reference, storage.nbytes()


def _weak(storage: torch.UntypedStorage) -> StorageWeakRef:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def batchnorm_statistics(module: nn.Module) -> list[Tensor]:
    """Copies of every running mean and variance, in the order of modules."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
    return [
        statistic.detach().clone()
        for norm in norms
        for statistic in (norm.running_mean, norm.running_var)
        if statistic is not None
    ]


def known_tensors(module: nn.Module, *more: Tensor) -> list[Tensor]:
    """Return the tensors that exist before a forward: parameters, buffers, and `more`."""
    return [*(tensor for _, tensor in tensors(module)), *more]
