"""AOTInductor: from an exported graph to native code, with the weights folded in as constants.

Loading a package needs no compiler. Building one needs a C++ compiler, and takes some ten seconds.

Source: https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from pathlib import Path

import torch

from service.loader.compiled import CannotCompileError, Package, Target

SUFFIX = ".pt2"


def need(target: Target) -> None:
    """Check that there is a C++ compiler: `$CXX`, else g++.

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
    options = {
        "freezing": True,
        "max_autotune": max_autotune,
        "compile_threads": 1,
        # They take nine seconds to save eight, and 300 MB, which stay in TMPDIR wherever TORCHINDUCTOR_CACHE_DIR is.
        "aot_inductor.precompile_headers": False,
    }
    try:
        with contextlib.redirect_stderr(io.StringIO()), torch.no_grad():  # autotuning writes tables there
            torch._inductor.aoti_compile_and_package(program, package_path=str(file), inductor_configs=options)
    except Exception as error:
        raise CannotCompileError.because("failed", "AOTInductor", error) from error


def load(file: Path, target: Target) -> Package:
    """Load a package. It is native code: the caller has checked who owns the file.

    `torch._inductor.aoti_load_package` does the same, but imports all of Inductor to do so, which an engine that only
    serves has no use for: more than a second, and 160 MiB.
    """
    index = target.device.index if target.device.index is not None else -1
    loader = torch._C._aoti.AOTIModelPackageLoader(str(file), "model", False, 1, index)
    return Package(lambda arrays: tuple(loader.boxed_run(list(arrays))), target.threads)
