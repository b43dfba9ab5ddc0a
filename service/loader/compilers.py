"""The compilers that make a package of an exported graph. A new one is a file beside these, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from service.loader import inductor, openvino
from service.loader.compiled import Package, Target


@dataclass(frozen=True)
class Compiler:
    """One way from an exported graph to a file, and from that to a function.

    Attributes:
        name: the candidate's, in verdicts.
        suffix: the suffix of its files.
        need: raises CannotCompileError where it cannot be used.
        build: writes the package; raises CannotCompileError where it refuses.
        load: gives the package.
        thorough: whether it takes long and wins a few per cent at most; it is tried only when time allows.
    """

    name: str
    suffix: str
    need: Callable[[Target], None]
    build: Callable[[torch.export.ExportedProgram, Path, Target], None]
    load: Callable[[Path, Target], Package]
    thorough: bool = False


def _inductor(name: str, max_autotune: bool) -> Compiler:
    build = partial(inductor.build, max_autotune=max_autotune)
    return Compiler(name, inductor.SUFFIX, inductor.need, build, inductor.load, thorough=max_autotune)


COMPILERS = (
    Compiler("openvino", openvino.SUFFIX, openvino.need, openvino.build, openvino.load),
    Compiler(
        "openvino, in pieces",
        openvino.SUFFIX_IN_PIECES,
        openvino.need,
        openvino.build_in_pieces,
        openvino.load_in_pieces,
    ),
    _inductor("aot_inductor", max_autotune=False),
    _inductor("aot_inductor, max-autotune", max_autotune=True),
)


def load_package(file: Path, target: Target) -> Package:
    """Load a package with the compiler of its suffix. It is native code: the caller has checked who owns the file.

    Raises:
        LookupError: no compiler has this suffix.
    """
    for compiler in COMPILERS:
        if compiler.suffix == file.suffix:
            return compiler.load(file, target)
    raise LookupError(f"{file.name} has the suffix of no compiler")
