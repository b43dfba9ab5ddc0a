"""A module with what stands before and behind it: from an engine's arrays to the results that leave the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from service.errors import ModelOutputInvalid
from service.signature import Signature, TensorSpec, said_of_shape
from service.tasks.adapters.flattening import Flattening


class Preparation(nn.Module):
    """Makes a module's arguments of arrays; a part of what is exported, proven and captured.

    Attributes:
        inputs: the arrays, in their order.
        dtype: what the module computes in; floating arguments come in it.
        memory_format: the layout of four-dimensional arguments.
    """

    inputs: tuple[TensorSpec, ...]
    dtype = torch.float32
    memory_format = torch.contiguous_format

    def forward(self, *arrays: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return a module's positional and keyword arguments."""
        raise NotImplementedError

    def examples(self, count: int) -> tuple[Tensor, ...]:
        """Draw arrays of `count` made-up examples; the same each time, and no two alike where the dtype allows it."""
        raise NotImplementedError

    def real_examples(self, most: int) -> tuple[Tensor, ...] | None:
        """Return arrays of at most `most` examples as people send them; None if there are none here."""
        return None

    @property
    def has_layouts(self) -> bool:
        """Return whether a memory format makes a difference to its arguments."""
        return any(len(spec.shape) == 3 for spec in self.inputs)


class Head(Protocol):
    """Makes results of a module's outputs, for a whole batch on its device; nothing that a proof should have seen."""

    outputs: tuple[TensorSpec, ...]

    @property
    def has_probabilities(self) -> bool:
        """Return whether the outputs stand for probabilities."""

    def reduce(self, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the results on the CPU, each `(N, *shape)`."""

    def faults(self, results: Sequence[Tensor]) -> Mapping[int, str]:
        """Say by its position which example has results that must not leave, and why."""

    def probabilities(self, outputs: Sequence[Tensor]) -> Tensor | None:
        """Return `(N, K) float32` if there are such; else None."""


class Adapter(nn.Module):
    """One model, as an engine and every compiler see it: flat, positional, the batch along the first axis.

    Args:
        flattening: finds the outputs in what the module returns.
        raw: the outputs that it finds.
        head: makes results of them.

    Attributes:
        module: what is frozen, sealed and proven.
        signature: its inputs, and the results that leave the engine.
    """

    def __init__(
        self,
        module: nn.Module,
        preparation: Preparation,
        flattening: Flattening,
        raw: tuple[TensorSpec, ...],
        head: Head,
    ) -> None:
        super().__init__()
        self.module = module
        self.preparation = preparation
        self.raw = raw
        self.head = head
        self._flattening = flattening
        self._dtypes = [getattr(torch, spec.dtype) for spec in raw]
        self.signature = Signature(preparation.inputs, head.outputs)
        self.eval()

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """Run the module on a batch.

        Args:
            arrays: on the device, one for each input, `(N, *shape)`.

        Returns:
            Its outputs, `(N, *shape)` each.

        Raises:
            ModelOutputInvalid: one of them is not there.
        """
        positional, by_name = self.preparation.forward(*arrays)
        return self._flattening.outputs(self.module(*positional, **by_name))

    def check(self, outputs: Sequence[Tensor], count: int) -> None:
        """Hold outputs against what they were at the start.

        Raises:
            ModelOutputInvalid: one has another shape or dtype.
        """
        for spec, dtype, output in zip(self.raw, self._dtypes, outputs, strict=True):
            if output.dtype is not dtype or output.shape != (count, *spec.shape):
                words = f"The model returned {_said(output)} as {spec.name} for {count} example{'s' * (count != 1)}"
                wanted = said_of_shape(spec.dtype, (count, *spec.shape))
                raise ModelOutputInvalid(f"{words}; it must return {wanted}.")

    @property
    def sealed(self) -> nn.Module:
        """Return what a seal covers.

        A seal goes by the names of weights. Where outputs have names, `module.` stands before each; versions that
        people know depend on it.
        """
        return nn.ModuleDict({"module": self.module}) if self._flattening.by_name else self.module

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shape of one example of each input."""
        return tuple(spec.shape for spec in self.preparation.inputs)


def _said(output: Any) -> str:
    return said_of_shape(str(output.dtype).removeprefix("torch."), output.shape)
