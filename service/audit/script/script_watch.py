"""Sensors around a user's function: every module, thread and mode that it uses, and the line that does it.

Most are patches of torch's own Python functions, put in place before the script is imported, so that names which it
imports from torch are watched too, and in all threads. They only note; what torch does is unchanged.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.utils._pytree import tree_iter

from service.audit.script.lines import UNKNOWN, Line, Lines
from service.loader.sensors import sequence_number

#: Functions that drop at random: where each is, and the place, name and default of the argument that turns it on.
_DROPOUTS: tuple[tuple[Any, str, int, str, Any], ...] = (
    *((functional, name, 2, "training", True) for name in ("dropout", "dropout1d", "dropout2d", "dropout3d")),
    *((functional, name, 2, "training", False) for name in ("alpha_dropout", "feature_alpha_dropout")),
    (functional, "scaled_dot_product_attention", 4, "dropout_p", 0.0),
    (torch, "dropout", 2, "train", True),
)


@dataclass
class CallRecord:
    """Effects of one call of the function.

    Attributes:
        roots: modules that were called by no other module, with the line of the call.
        training: modules called in train mode, with the line of their root's call.
        unthreaded: lines of calls in another thread with gradients on.
        dropouts, batch_norms: lines of functions that were told to train, outside modules that are.
        statistics: modules that normalise by the batch although they are in eval mode, with the line.
        detached: lines where a tensor lost its graph.
        nodes: autograd nodes built in the calling thread.
        graph: nodes and saved bytes of the largest graph that a root module gave, in any thread.
        backward: lines of backward passes and optimizer steps: it means to train.
    """

    roots: dict[nn.Module, Line] = field(default_factory=dict)
    training: dict[nn.Module, Line] = field(default_factory=dict)
    unthreaded: list[Line] = field(default_factory=list)
    dropouts: list[Line] = field(default_factory=list)
    batch_norms: list[Line] = field(default_factory=list)
    statistics: dict[nn.Module, Line] = field(default_factory=dict)
    detached: list[Line] = field(default_factory=list)
    nodes: int = 0
    graph: tuple[int, int] = (0, 0)
    backward: list[Line] = field(default_factory=list)


class ScriptWatch:
    """Sensors, put in place once before the script is imported; `call()` gives the effects of one call.

    Attributes:
        switched_off: lines that turned gradients off, each with its thread.
        made: the line that made each module of BatchNorm's kind.
        modules: every module called so far.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._stack = ExitStack()
        self._inside = threading.local()
        self._thread = threading.get_ident()
        self.seen = CallRecord()
        self.switched_off: list[tuple[int, Line]] = []
        self.made: weakref.WeakKeyDictionary[nn.Module, Line] = weakref.WeakKeyDictionary()
        self.modules: dict[nn.Module, None] = {}

    def __enter__(self) -> ScriptWatch:
        hooks = (register_module_forward_pre_hook(self._called), register_module_forward_hook(self._returned))
        for handle in (*hooks, register_optimizer_step_pre_hook(self._stepped)):
            self._stack.callback(handle.remove)
        for mode in (torch.no_grad, torch.inference_mode):
            self._before(mode, "__enter__", self._switched)
        self._before(torch.set_grad_enabled, "__init__", self._set)
        self._before(_NormBase, "__init__", self._made_norm)
        self._before(torch.Tensor, "detach", self._detached)
        self._before(torch.autograd, "backward", lambda *_, **__: self.seen.backward.append(self._lines.here()))
        self._before(torch.autograd, "grad", lambda *_, **__: self.seen.backward.append(self._lines.here()))
        for owner, name, place, key, default in _DROPOUTS:
            self._before(owner, name, self._dropping(place, key, default))
        self._before(functional, "batch_norm", self._normalising)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @contextmanager
    def call(self) -> Iterator[CallRecord]:
        """Watch one call of the function."""
        self.seen, first = CallRecord(), sequence_number()
        self._around().clear()
        try:
            yield self.seen
        finally:
            self.seen.nodes = sequence_number() - first

    def parameters(self) -> list[nn.Parameter]:
        """Return every parameter of every module called so far, once."""
        return list({id(p): p for module in self.modules for p in module.parameters()}.values())

    def _before(self, owner: Any, name: str, note: Callable[..., object]) -> None:
        """Have `note` called with the arguments each time, before the function itself."""
        original = getattr(owner, name)

        def noting(*args: Any, **kwargs: Any) -> Any:
            note(*args, **kwargs)
            return original(*args, **kwargs)

        self._stack.enter_context(mock.patch.object(owner, name, noting))

    # Modules

    def _called(self, module: nn.Module, inputs: Any) -> None:
        around = self._around()
        if not around:
            self.seen.roots.setdefault(module, self._lines.here())
        line = self.seen.roots.get((around or [module])[0], UNKNOWN)
        around.append(module)
        self.modules[module] = None
        if module.training:
            self.seen.training.setdefault(module, line)
        elif isinstance(module, _BatchNorm) and module.running_mean is None:
            self.seen.statistics.setdefault(module, self.made.get(module) or line)
        if threading.get_ident() != self._thread and torch.is_grad_enabled():
            self.seen.unthreaded.append(line)

    def _returned(self, module: nn.Module, inputs: Any, output: Any) -> None:
        around = self._around()
        while around and around.pop() is not module:  # one that raised never returned
            continue
        if not around:
            self.seen.graph = max(self.seen.graph, graph_size(output))

    def _around(self) -> list[nn.Module]:
        """Return the modules whose forward runs in this thread, outermost first."""
        if not hasattr(self._inside, "modules"):
            self._inside.modules = []
        found: list[nn.Module] = self._inside.modules
        return found

    def _trains(self) -> bool:
        """Return whether the innermost running module is in train mode: then being told to train is as it should be."""
        around = self._around()
        return bool(around) and around[-1].training

    def _made_norm(self, module: nn.Module, *args: Any, **kwargs: Any) -> None:
        self.made[module] = self._lines.here()

    # Modes and functions

    def _switched(self, *_: Any) -> None:
        if (line := self._lines.switching()) != UNKNOWN:
            self.switched_off.append((threading.get_ident(), line))

    def _set(self, _: Any, mode: bool) -> None:
        if not mode:
            self._switched()

    def _stepped(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.seen.backward.append(self._lines.here())

    def _detached(self, tensor: Tensor) -> None:
        if tensor.grad_fn is not None and (line := self._lines.here()) != UNKNOWN:
            self.seen.detached.append(line)

    def _dropping(self, place: int, key: str, default: Any) -> Callable[..., None]:
        def note(*args: Any, **kwargs: Any) -> None:
            on = kwargs.get(key, args[place] if len(args) > place else default)
            if on and not self._trains():
                self.seen.dropouts.append(self._lines.here())

        return note

    def _normalising(
        self, input: Tensor, mean: Any, var: Any, weight: Any = None, bias: Any = None, training: bool = False, *_: Any,
        **__: Any,
    ) -> None:  # fmt: skip
        around = self._around()
        if training and not self._trains() and not (around and isinstance(around[-1], _BatchNorm)):
            self.seen.batch_norms.append(self._lines.here())


def living_graphs() -> tuple[int, int]:
    """Return the nodes, and the bytes that they saved, of every graph that a living tensor holds.

    Not by saved-tensor hooks: what one packs would hold the graph that holds it, for an operator that saves its output.
    """
    gc.collect()
    return graph_size([found for found in gc.get_objects() if issubclass(type(found), Tensor)])


def graph_size(output: Any) -> tuple[int, int]:
    """Return the nodes below an output, without AccumulateGrad, and the bytes that they saved, each storage once."""
    waiting = [leaf.grad_fn for leaf in tree_iter(output) if isinstance(leaf, Tensor) and leaf.grad_fn is not None]
    found: set[Any] = set()
    storages: dict[int, int] = {}
    while waiting:
        node = waiting.pop()
        if node in found or type(node).__name__ == "AccumulateGrad":
            continue
        found.add(node)
        waiting += [parent for parent, _ in node.next_functions if parent is not None]
        storages |= {s.data_ptr(): s.nbytes() for s in _saved_by(node)}
    return len(found), sum(storages.values())


def _saved_by(node: Any) -> Iterator[torch.UntypedStorage]:
    for name in dir(node):
        if name.startswith("_saved_"):
            with suppress(RuntimeError):  # it was changed in place since, or freed
                leaves = [leaf for leaf in tree_iter(getattr(node, name)) if isinstance(leaf, Tensor)]
                yield from (leaf.untyped_storage() for leaf in leaves if not isinstance(leaf, nn.Parameter))
