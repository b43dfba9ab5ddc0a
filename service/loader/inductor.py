"""AOTInductor: from an exported graph to native code, with the weights folded in as constants.

Loading a package needs no compiler. Building one needs a C++ compiler, and takes some ten seconds.

Source: https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
from pathlib import Path

import torch

from service.loader.compiled import CannotCompileError, Package, Target

SUFFIX = ".pt2"


def need(target: Target) -> None:
    """It compiles with `$CXX`, else g++.

    Raises:
        CannotCompileError: there is none on the PATH.
    """
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise CannotCompileError("no-compiler", f"there is no {compiler} on the PATH, which AOTInductor compiles with")


def build(program: torch.export.ExportedProgram, file: Path, target: Target, max_autotune: bool) -> None:
    """Compile an exported program into a package. The code runs with the target's threads, whatever the process has.

    Raises:
        CannotCompileError: the compiler refuses.
    """
    torch.set_num_threads(target.threads)
    options = {"freezing": True, "max_autotune": max_autotune, "compile_threads": 1}
    try:
        with contextlib.redirect_stderr(io.StringIO()), torch.no_grad():  # autotuning writes tables there
            torch._inductor.aoti_compile_and_package(program, package_path=str(file), inductor_configs=options)
    except Exception as error:
        raise CannotCompileError.because("failed", "AOTInductor", error) from error


def load(file: Path, target: Target) -> Package:
    """The function that a package holds. Native code: whoever calls this has looked at whose file it is."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no CUDA is no news
    # Where there is no compiler, torch calls the package outdated and loads it as it should.
    logging.getLogger("torch._inductor.package.package").setLevel(logging.ERROR)
    index = target.device.index if target.device.index is not None else -1
    return Package(torch._inductor.aoti_load_package(str(file), device_index=index), target.threads)
