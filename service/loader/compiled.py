"""A frozen module as one exported graph, which every compiler starts from, and the reasons why it may be unfit.

Frozen weights are constants. A package holds them, laid out as the kernels want them, with all that stands before the
module in its adapter; it takes an engine's arrays and gives the module's outputs. The compilers are in
`service.loader.compilers`.

Source: https://docs.pytorch.org/docs/stable/export.html
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from service.loader.freeze import bytes_of
from service.signature import TensorSpec

#: Operators that in training go by the batch.
_BATCH_NORMS = {"aten::batch_norm", "aten::native_batch_norm"}


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


Arrays = tuple[Tensor, ...]


@dataclass(frozen=True)
class Target:
    """The device, sizes and threads that a package is made for.

    Attributes:
        threads: the intra-op threads of its forward.
        dtype: what the model computes in.
        cap: the largest batch.
        inputs, outputs: what goes in and comes out, of one example.
    """

    device: torch.device
    threads: int
    dtype: torch.dtype
    cap: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Package:
    """The function that a package holds.

    Attributes:
        forward: from an array for each input to the outputs of the model, `(N, ...)` each.
        intra_op_threads: torch's, while it answers. One where it brings threads of its own: two teams would spin for
            the same cores, and what comes after the forward would wake torch's.
        begin: starts the same and gives the function that waits for it, if that need not keep the calling thread.
        overlaps_from: smallest batch that may start while another one runs; 0 if batches never overlap.
    """

    forward: Callable[[Arrays], Arrays]
    intra_op_threads: int
    begin: Callable[[Arrays], Callable[[], Arrays]] | None = None
    overlaps_from: int = 0

    def __call__(self, arrays: Arrays) -> Arrays:
        return self.forward(arrays)


def export(adapter: nn.Module, examples: Arrays, target: Target) -> torch.export.ExportedProgram:
    """Export the graph of the adapter for any batch size up to the target's cap.

    Args:
        examples: an array for each input, of two examples, or of one where the cap is 1; on the target's device.

    Raises:
        CannotCompileError: torch.export cannot follow it, or it does what serving must not.
    """
    batch = {0: torch.export.Dim("batch", min=1, max=target.cap)} if target.cap > 1 else None
    shapes = ((batch,) * len(examples),) if batch else None  # of `*arrays`
    try:
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # of attributes that tracing puts back
            program = torch.export.export(adapter, examples, dynamic_shapes=shapes)
    except Exception as error:  # the operator's code, and whatever export thinks of it
        raise CannotCompileError.because("not-exportable", "torch.export", error) from error
    if found := unfit(program):
        raise CannotCompileError("not-exportable", found)
    return program


def unfit(program: torch.export.ExportedProgram) -> str:
    """Say why an exported graph is unfit: it trains, draws random numbers or writes to its state; empty if fit."""
    for node in _calls(program):
        name = node.target._schema.name
        if name in _BATCH_NORMS and _argument(node, "training") is True:
            return f"the exported graph holds {name} in train mode"
    decomposed = program.run_decompositions({})  # dropout that drops nothing is gone, and a write shows as one
    for node in _calls(decomposed):
        if torch.Tag.nondeterministic_seeded in node.target.tags and _argument(node, "train") is not False:
            return f"the exported graph holds {node.target._schema.name}, which draws random numbers"
    signature = decomposed.graph_signature
    if changed := [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]:
        return f"forward writes to {changed[0]}"
    return ""


def _calls(program: torch.export.ExportedProgram) -> Iterator[Any]:
    """Yield the node of each operator of a graph."""
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            yield node


def _argument(node: Any, name: str) -> Any:
    """Return an argument of an operator, such as the `train` of an LSTM, which without it drops nothing; else None."""
    for place, argument in enumerate(node.target._schema.arguments):
        if argument.name == name:
            return node.args[place] if place < len(node.args) else node.kwargs.get(name, argument.default_value)
    return None


def bits(outputs: Sequence[Tensor]) -> str:
    """Return the SHA-256, in hex, of the bytes of outputs."""
    digest = hashlib.sha256()
    for output in outputs:
        digest.update(bytes_of(output.detach()))
    return digest.hexdigest()
