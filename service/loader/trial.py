"""The forwards of one proof: which batches are run, in which order, and what is seen in and between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from service.loader.comparison import Comparison
from service.loader.freeze import seal
from service.loader.sensors import Watch, digest, digests, plain_digests


@dataclass(frozen=True)
class Forward:
    """One forward. Its outputs were compared and dropped.

    Attributes:
        order: the examples in it, by number.
        digests: SHA-256 of each output: dtype, shape and bits; none where sensors were around it.
        wrong_count: the number of answers if it differs from the number of inputs, else None.
        watched: whether sensors were around it, which may change the last bits.
        graph: why an output is part of a graph; empty if none is.
        left_mode: whether inference mode was off after it.
        seconds: its duration.
    """

    order: tuple[int, ...]
    digests: list[str]
    wrong_count: int | None
    watched: bool
    graph: str
    left_mode: bool
    seconds: float


@dataclass(frozen=True)
class Modes:
    """The names of modules in train mode, and of parameters that are not frozen."""

    training: list[str]
    unfrozen: list[str]

    @classmethod
    def of(cls, module: nn.Module) -> Modes:
        return cls(
            [name or "the model itself" for name, part in module.named_modules() if part.training],
            [name for name, parameter in module.named_parameters() if parameter.requires_grad],
        )


class Trial:
    """The forwards of a proof, with everything that a judge needs.

    Args:
        examples: an array for each input.
        comparison: takes in the outputs of those that ran as requests do.
    """

    def __init__(
        self,
        run_batch: Callable[[tuple[Tensor, ...]], Any],
        module: nn.Module,
        examples: Sequence[Tensor],
        comparison: Comparison,
        between: Callable[[], object],
    ) -> None:
        self._run_batch = run_batch
        self._between = between
        self._module = module
        self._examples = examples
        self._comparison = comparison
        self.forwards: list[Forward] = []
        self.watches: list[Watch] = []
        self._mode = torch.is_inference_mode_enabled()

    def run(self, sizes: Sequence[int]) -> None:
        """Run all forwards, each size at least once, and record the module's state before and after them.

        The order matters. Equal inputs follow each other once directly, which shows a model that counts calls, and once
        with another input between them, which shows a model that remembers. Example 0 goes alone, first, and last among
        strangers; example 1 alone, and between others. A batch goes plain before it goes watched.
        """
        cap = sizes[-1]
        self.before, self._digests = Modes.of(self._module), digests(self._module)
        self._forward((0,))
        plain = plain_digests(self._module)
        self._forward((0,), watched=True)
        self._plain = plain, plain_digests(self._module)
        self._forward((1,))
        self._forward((0,))
        for size in sizes[1:-1]:
            self._forward((*range(cap, cap + size - 1), 0))
            self._forward(tuple(range(size)), watched=True)
        self._forward(tuple(range(cap)))
        self._forward(tuple(range(cap)))
        self._forward(tuple(range(cap)), watched=True)
        self._forward((*range(cap, 2 * cap - 1), 0))
        self.after, self._digests_after = Modes.of(self._module), digests(self._module)

    def _forward(self, order: tuple[int, ...], watched: bool = False) -> None:
        self._between()  # outside the sensors: what it runs is not on trial
        batch = tuple(array[list(order)] for array in self._examples)
        # A forward that has left inference mode once is condemned. What it left open would keep hold of the sensors.
        watch = Watch(self._module) if watched and not any(f.left_mode for f in self.forwards) else None
        with torch.inference_mode(torch.is_inference_mode_enabled()):  # a forward can leave the mode only up to here
            began = time.perf_counter()
            with watch or nullcontext():
                output = self._run_batch(batch)
            seconds = time.perf_counter() - began
            left = self._mode and not torch.is_inference_mode_enabled()
        leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        graph = next(filter(None, (self._graph_of(leaf, batch) for leaf in leaves)), "")
        counts = [len(leaf) if leaf.dim() else 0 for leaf in leaves] or [0]
        wrong = next((count for count in counts if count != len(order)), None)
        if not watched and wrong is None:
            self._comparison.add(order, leaves)
        found = [] if watched else [digest(leaf) for leaf in leaves]
        self.forwards.append(Forward(order, found, wrong, watched, graph, left, seconds))
        if watch:
            self.watches.append(watch)

    def _graph_of(self, output: Tensor, batch: tuple[Tensor, ...]) -> str:
        if output.grad_fn is not None:
            return f"The output has a grad_fn ({type(output.grad_fn).__name__})."
        if output.requires_grad:
            return "The output requires a gradient."
        known = [*self._module.parameters(), *self._module.buffers(), *batch]
        shared = {tensor.untyped_storage().data_ptr() for tensor in known}
        if not output.is_inference() and output.untyped_storage().data_ptr() not in shared:
            return "The output was not made under inference_mode."
        return ""

    @property
    def plain(self) -> list[Forward]:
        """Return the forwards that ran as requests do, without sensors."""
        return [forward for forward in self.forwards if not forward.watched]

    def batch_seconds(self) -> dict[int, float]:
        """Return the shortest plain forward of each batch size, in seconds."""
        shortest: dict[int, float] = {}
        for forward in self.plain:
            size = len(forward.order)
            shortest[size] = min(shortest.get(size, forward.seconds), forward.seconds)
        return shortest

    @property
    def counted(self) -> int:
        """Return the number of parameters and buffers that were hashed."""
        return len(self._digests)

    def repeated(self) -> Iterator[tuple[Forward, Forward]]:
        """Yield each two plain forwards of the same batch."""
        by_order: dict[tuple[int, ...], list[Forward]] = {}
        for forward in self.plain:
            by_order.setdefault(forward.order, []).append(forward)
        for forwards in by_order.values():
            yield from combinations(forwards, 2)

    def changed(self) -> list[str]:
        """Say what changed: parameters, buffers, tensors in attributes, modules registered nowhere."""
        hidden = [
            f"{watch.name_of(module)} was changed"
            for watch in self.watches
            for module, before in watch.hidden.items()
            if seal(module) != before
        ]
        return [*_differences(self._digests, self._digests_after), *_differences(*self._plain), *hidden]


def _differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [
        *(f"{name} was changed" for name in before if name in after and after[name] != before[name]),
        *(f"{name} was taken away" for name in before if name not in after),
        *(f"{name} was added" for name in after if name not in before),
    ]
