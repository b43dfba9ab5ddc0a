"""From a frozen module to native code: torch.export, then AOTInductor with the weights folded in as constants.

Frozen weights are constants. The package holds them, laid out as the kernels want them, with the normalisation of the
pixels and everything else that the forward does; it takes `uint8` pixels and gives the module's outputs. Loading one
needs no compiler. Building one does, and takes some ten seconds: `service.compile` does it, behind serving.

Source: https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from service.tasks.classification import normalise

#: Operators that in training go by the batch, and which of their arguments says so.
_BATCH_NORMS = {"aten::batch_norm": 5, "aten::native_batch_norm": 5}


class CannotCompileError(Exception):
    """There will be no package of this model here. `state` is the verdict's, the message its detail."""

    def __init__(self, state: str, detail: str) -> None:
        super().__init__(detail)
        self.state = state

    @classmethod
    def because(cls, state: str, what: str, error: Exception) -> CannotCompileError:
        """Of what a part of torch raised; its messages run to pages."""
        words = (str(error).strip().splitlines() or ["no more is known"])[0][:300]
        return cls(state, f"{what}: {type(error).__name__}: {words}")


class Entry(nn.Module):
    """What is compiled: `(N, 3, H, W) uint8` to what the module gives."""

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


def need_compiler() -> None:
    """AOTInductor compiles with `$CXX`, else g++.

    Raises:
        CannotCompileError: there is none on the PATH.
    """
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise CannotCompileError("no-compiler", f"there is no {compiler} on the PATH; gradless compile needs one")


def export(entry: Entry, cap: int, side: int, device: torch.device) -> torch.export.ExportedProgram:
    """The graph of the entry for any batch size up to `cap`, with pictures of `side` pixels.

    Raises:
        CannotCompileError: torch.export cannot follow it, or it does what serving must not.
    """
    example = torch.zeros((min(2, cap), 3, side, side), dtype=torch.uint8, device=device)
    shapes = ({0: torch.export.Dim("batch", min=1, max=cap)},) if cap > 1 else None
    try:
        with torch.no_grad():
            program = torch.export.export(entry, (example,), dynamic_shapes=shapes)
    except Exception as error:  # the operator's code, and whatever export thinks of it
        raise CannotCompileError.because("not-exportable", "torch.export", error) from error
    if found := unfit(program):
        raise CannotCompileError("not-exportable", found)
    return program


def unfit(program: torch.export.ExportedProgram) -> str:
    """What an exported graph does that a frozen model does not: trains, draws random numbers, writes to its state."""
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


def package(program: torch.export.ExportedProgram, file: Path, threads: int, max_autotune: bool) -> None:
    """Compile an exported program into a package. The code runs with so many threads, whatever the process has.

    Raises:
        CannotCompileError: the compiler refuses.
    """
    torch.set_num_threads(threads)
    options = {"freezing": True, "max_autotune": max_autotune, "compile_threads": 1}
    try:
        with contextlib.redirect_stderr(io.StringIO()), torch.no_grad():  # autotuning writes tables there
            torch._inductor.aoti_compile_and_package(program, package_path=str(file), inductor_configs=options)
    except Exception as error:
        raise CannotCompileError.because("failed", "AOTInductor", error) from error


def load_package(file: Path, device: torch.device) -> Callable[[Tensor], Any]:
    """The function that a package holds. Native code: whoever calls this has looked at whose file it is."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no CUDA is no news
    # Where there is no compiler, torch calls the package outdated and loads it as it should.
    logging.getLogger("torch._inductor.package.package").setLevel(logging.ERROR)
    index = device.index if device.index is not None else -1
    return torch._inductor.aoti_load_package(str(file), device_index=index)


def bits(output: Tensor) -> str:
    """SHA-256, in hex, of an output's bytes."""
    return hashlib.sha256(output.detach().contiguous().cpu().view(torch.uint8).numpy().data).hexdigest()
