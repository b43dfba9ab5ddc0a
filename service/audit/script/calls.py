"""The calls of one function: what each did, gave and left behind."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_iter

from service.audit.forward_costs import batchnorm_statistics
from service.audit.script.lines import Line, Lines
from service.audit.script.script_watch import CallRecord, ScriptWatch, living_graphs

#: Calls with the same batch: two show what is random, four that memory grows with each call.
CALLS = 4


@dataclass
class ScriptTrial:
    """Calls of a function under the sensors, for the judges to look at.

    Attributes:
        function: called with `(N, …) float32`.
        batch: the batch of every call.
        calls: the effects of each call.
        outputs: by call, the tensors that it gave, as float64 copies.
        has_graph: whether the output of the first call has a graph.
        alive: nodes of the first call's graph, and bytes that it kept, while its output lived.
        kept: by call, the same of all graphs that live once its output is dropped.
        moved: by name, how far a norm's statistics moved in the second call, as a share of their largest.
        error: the exception that ended the first call, and its line.
    """

    function: Callable[[Tensor], Any]
    batch: Tensor
    watch: ScriptWatch
    lines: Lines
    calls: list[CallRecord] = field(default_factory=list)
    outputs: list[list[Tensor]] = field(default_factory=list)
    has_graph: bool = False
    alive: tuple[int, int] = (0, 0)
    kept: list[tuple[int, int]] = field(default_factory=list)
    moved: dict[nn.Module, float] = field(default_factory=dict)
    error: tuple[Exception, Line] | None = None

    def run(self) -> None:
        """Make all calls; the first that raises is the last."""
        for number in range(CALLS):
            before = self._statistics()
            try:
                self._call(first=not number)
            except Exception as error:  # whatever a stranger's function raises
                frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
                self.error = error, self.lines.blamed(frames)
                return
            if number == 1:
                after = self._statistics()
                self.moved = {norm: _distance([after[norm]], [before[norm]]) for norm in before if norm in after}

    def _call(self, first: bool) -> None:
        with self.watch.call() as seen:
            self.calls.append(seen)
            output = self.function(self.batch.clone())
        leaves = [leaf for leaf in tree_iter(output) if isinstance(leaf, Tensor)]
        if first:
            self.has_graph = any(leaf.grad_fn is not None for leaf in leaves)
            self.alive = living_graphs()
        self.outputs.append([leaf.detach().to("cpu", torch.float64, copy=True) for leaf in leaves])
        del output, leaves
        self.kept.append(living_graphs())

    def _statistics(self) -> dict[nn.Module, Tensor]:
        norms = [module for module in self.watch.modules if isinstance(module, _NormBase)]
        return {norm: torch.cat(statistics) for norm in norms if (statistics := batchnorm_statistics(norm))}

    @property
    def first(self) -> CallRecord:
        return self.calls[0]

    @property
    def training(self) -> bool:
        """Return whether the function means to train: it runs backward passes, or tried to."""
        return any(seen.backward for seen in self.calls)

    @property
    def graph(self) -> tuple[int, int]:
        """Return the nodes and bytes of the first call's graph; 0 if there was none."""
        return max(self.alive, self.first.graph)

    @property
    def slope(self) -> tuple[float, float]:
        """Return the nodes and bytes that graphs grow by a call; 0 unless every call adds to them."""
        pairs = list(zip(self.kept, self.kept[1:], strict=False))
        if not pairs or any(after[0] <= before[0] for before, after in pairs):
            return 0.0, 0.0
        first, last = self.kept[0], self.kept[-1]
        return (last[0] - first[0]) / len(pairs), (last[1] - first[1]) / len(pairs)

    @property
    def noise(self) -> float:
        """Return the largest difference between the first two calls, as a share of the largest output."""
        return _distance(*self.outputs[:2]) if len(self.outputs) > 1 else 0.0

    def again(self, batch: Tensor, rows: int) -> float | None:
        """Return how far the first `rows` of the outputs move with another batch; None if it does not run."""
        try:
            with self.watch.call():
                output = self.function(batch.clone())
        except Exception:  # whatever the user's function raises: then it has no such cost
            return None
        leaves = [leaf.detach().to("cpu", torch.float64) for leaf in tree_iter(output) if isinstance(leaf, Tensor)]
        return _distance(_rows(leaves, rows), _rows(self.outputs[0], rows))


def _rows(leaves: list[Tensor], rows: int) -> list[Tensor]:
    return [leaf[:rows] if leaf.dim() else leaf for leaf in leaves]


def _distance(once: list[Tensor], again: list[Tensor]) -> float:
    pairs = [(a, b) for a, b in zip(once, again, strict=False) if a.shape == b.shape and a.numel()]
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() for a, b in pairs) if pairs else 0.0
