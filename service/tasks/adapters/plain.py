"""Tensors that clients send: handed to forward by name where it has one, else in the card's order."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from service.signature import TensorSpec
from service.tasks.adapters.adapter import Preparation
from service.tasks.adapters.made_up import drawn


class Plain(Preparation):
    """Hands arrays on as the module takes them: floats in its dtype, the batch along the axis that it wants.

    Args:
        inputs: the card's `[inputs.NAME]`, in their order.
    """

    def __init__(self, inputs: Sequence[TensorSpec], module: nn.Module) -> None:
        super().__init__()
        self.inputs = tuple(inputs)
        named = _parameters(module)
        self._by_name = [spec.name in named for spec in inputs]

    def forward(self, *arrays: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        positional, by_name = [], {}
        for spec, named, array in zip(self.inputs, self._by_name, arrays, strict=True):
            argument = self._argument(spec, array)
            if named:
                by_name[spec.name] = argument
            else:
                positional.append(argument)
        return positional, by_name

    def _argument(self, spec: TensorSpec, array: Tensor) -> Tensor:
        if spec.batch_axis:
            array = array.movedim(0, spec.batch_axis)
        if not spec.is_floating:
            return array
        layout = self.memory_format if array.dim() == 4 else torch.preserve_format
        return array.to(self.dtype, memory_format=layout)

    def examples(self, count: int) -> tuple[Tensor, ...]:
        return drawn(count, self.inputs)


def _parameters(module: nn.Module) -> set[str]:
    """Return the names by which forward takes arguments."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return set()
    return {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
