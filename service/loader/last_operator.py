"""The operator that a model's outputs come from: a linear layer's outputs are logits, whatever their range."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from service.loader.operators import around_operators

#: Whether outputs come from a linear layer or a convolution, from a mean over such or others, or from anything else.
End: TypeAlias = Literal["linear", "pooled", "other"]

_LINEAR = {"addmm", "mm", "bmm", "baddbmm", "linear", "matmul", "convolution", "conv2d", "conv1d", "einsum"}
_POOLING = {"mean", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d"}
#: Operators that leave numbers as they are.
_COPYING = {"clone", "_to_copy", "to", "contiguous", "cat", "stack", "squeeze", "flatten", "reshape", "view"}
#: Operators that make a sum without a limit of one that has none.
_ADDING = {"add", "sub", "add_", "sub_"}
#: Operators that do so by a number.
_SCALING = {"mul", "div", "mul_", "div_"}


def end_of(forward: Callable[[], object], scores: Callable[[Any], object]) -> tuple[Any, End]:
    """Run a forward, and return its output and what its scores come from.

    Args:
        scores: picks the scores from the output.
    """
    seen = _Ends()
    with around_operators(seen.run):
        output = forward()
    found = scores(output)
    return output, seen.of(found) if isinstance(found, Tensor) else "other"


class _Ends:
    """Notes for each storage the end that its tensor would be, as operators write it."""

    def __init__(self) -> None:
        self._ends: dict[int, End] = {}

    def of(self, tensor: Tensor) -> End:
        return self._ends.get(_storage(tensor), "other")

    def run(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ends = [self.of(tensor) for tensor in given]
        there = {_storage(tensor) for tensor in given}
        result = operator(*args, **kwargs)
        end = _end(operator.overloadpacket.__name__, ends)
        for leaf in tree_leaves(result):
            is_view = isinstance(leaf, Tensor) and _storage(leaf) in there and not operator._schema.is_mutable
            if isinstance(leaf, Tensor) and not is_view:
                self._ends[_storage(leaf)] = end
        return result


def _end(operator: str, given: Sequence[End]) -> End:
    """Return the end that an operator's result is, for tensors that are `given`."""
    if operator in _LINEAR:
        return "linear"
    if operator in _POOLING:
        return "linear" if given[:1] == ["linear"] else "pooled"
    if operator in _COPYING and len({*given}) == 1:
        return given[0]
    if operator in _ADDING and "linear" in given:
        return "linear"
    if operator in _SCALING and len(given) == 1:
        return given[0]
    return "other"


def _storage(tensor: Tensor) -> int:
    if tensor.layout is not torch.strided:  # such as mkldnn's, which has none
        return id(tensor)
    return int(tensor.untyped_storage()._cdata)
