"""A frozen module as one exported graph, which every compiler starts from, and the reasons why it may be unfit.

Frozen weights are constants. A package holds them, laid out as the kernels want them, with the normalisation of the
pixels and everything else that the forward does; it takes `uint8` pixels and gives the module's outputs. The compilers
are in `service.loader.compilers`.

Source: https://docs.pytorch.org/docs/stable/export.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from service.tasks.adapters.picture import normalise

#: Operators that in training go by the batch, and which of their arguments says so.
_BATCH_NORMS = {"aten::batch_norm": 5, "aten::native_batch_norm": 5}


class CannotCompileError(Exception):
    """The model cannot be compiled here. `state` becomes the verdict's, and the message its detail."""

    def __init__(self, state: str, detail: str) -> None:
        super().__init__(detail)
        self.state = state

    @classmethod
    def because(cls, state: str, what: str, error: Exception) -> CannotCompileError:
        """Make one of an exception, with the first line of its message: torch's run to pages."""
        words = (str(error).strip().splitlines() or ["no more is known"])[0][:300]
        return cls(state, f"{what}: {type(error).__name__}: {words}")


class Entry(nn.Module):
    """The module that is compiled: it normalises `(N, C, H, W) uint8` pixels and returns the module's outputs."""

    def __init__(
        self, module: nn.Module, mean: Tensor, std: Tensor, dtype: torch.dtype, memory_format: torch.memory_format
    ) -> None:
        super().__init__()
        self.module = module
        self.mean = nn.Buffer(mean)
        self.std = nn.Buffer(std)
        self._dtype = dtype
        self._memory_format = memory_format
        self.eval()

    def forward(self, pixels: Tensor) -> Any:
        return self.module(normalise(pixels, self.mean, self.std, self._dtype, self._memory_format))


@dataclass(frozen=True)
class Target:
    """The device, sizes and threads that a package is made for.

    Attributes:
        threads: the intra-op threads of its forward.
        dtype: what the model computes in.
        cap: the largest batch.
        shape: channels, height and width of one example.
    """

    device: torch.device
    threads: int
    dtype: torch.dtype
    cap: int
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Package:
    """The function that a package holds.

    Attributes:
        forward: from `(N, C, H, W) uint8` to what the module gives.
        intra_op_threads: torch's, while it answers. One where it brings threads of its own: two teams would spin for
            the same cores, and what comes after the forward would wake torch's.
        begin: starts the same and gives the function that waits for it, if that need not keep the calling thread.
        overlaps_from: smallest batch that may start while another one runs; 0 if batches never overlap.
    """

    forward: Callable[[Tensor], Any]
    intra_op_threads: int
    begin: Callable[[Tensor], Callable[[], Any]] | None = None
    overlaps_from: int = 0

    def __call__(self, pixels: Tensor) -> Any:
        return self.forward(pixels)


def export(entry: Entry, target: Target) -> torch.export.ExportedProgram:
    """Export the graph of the entry for any batch size up to the target's cap.

    Raises:
        CannotCompileError: torch.export cannot follow it, or it does what serving must not.
    """
    shape = (min(2, target.cap), *target.shape)
    example = torch.zeros(shape, dtype=torch.uint8, device=target.device)
    shapes = ({0: torch.export.Dim("batch", min=1, max=target.cap)},) if target.cap > 1 else None
    try:
        with torch.no_grad():
            program = torch.export.export(entry, (example,), dynamic_shapes=shapes)
    except Exception as error:  # the operator's code, and whatever export thinks of it
        raise CannotCompileError.because("not-exportable", "torch.export", error) from error
    if found := unfit(program):
        raise CannotCompileError("not-exportable", found)
    return program


def unfit(program: torch.export.ExportedProgram) -> str:
    """Say why an exported graph is unfit: it trains, draws random numbers or writes to its state; empty if fit."""
    for name, arguments, _ in _operators(program):
        if name in _BATCH_NORMS and arguments[_BATCH_NORMS[name] : _BATCH_NORMS[name] + 1] == (True,):
            return f"the exported graph holds {name} in train mode"
    decomposed = program.run_decompositions({})  # dropout that drops nothing is gone, and a write shows as one
    for name, _, tags in _operators(decomposed):
        if torch.Tag.nondeterministic_seeded in tags:
            return f"the exported graph holds {name}, which draws random numbers"
    signature = decomposed.graph_signature
    if changed := [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]:
        return f"forward writes to {changed[0]}"
    return ""


def _operators(program: torch.export.ExportedProgram) -> Iterator[tuple[str, tuple[Any, ...], Sequence[torch.Tag]]]:
    """Name, arguments and tags of each operator of a graph."""
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            yield node.target._schema.name, node.args, node.target.tags


def bits(output: Tensor) -> str:
    """Return the SHA-256, in hex, of an output's bytes."""
    return hashlib.sha256(output.detach().contiguous().cpu().view(torch.uint8).numpy().data).hexdigest()
