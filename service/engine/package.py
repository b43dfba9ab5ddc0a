"""From a verdict in the cache to the package that answers."""

from __future__ import annotations

import dataclasses

from service.engine.model import ServedModel
from service.loader.comparison import apart
from service.loader.compiled import bits
from service.loader.compilers import load_package
from service.loader.packages import Packages, RefusedPackageError
from service.loader.proof import tolerance_of
from service.loader.verdict import Verdict


def use_package(model: ServedModel, packages: Packages, key: str, verdict: Verdict) -> None:
    """Have a model answer with the package that a verdict names, in this thread's mode, which is inference mode.

    Raises:
        RefusedPackageError: it is not ours, not whole, or does not do what it did when it was new.
    """
    file = packages.open(verdict)
    # Whatever was found out since, a package runs with the threads that it was measured with.
    threads = verdict.tuning.threads if verdict.tuning else model.tuning.threads
    with packages.trying(key):
        model.run_eager()
        eager = model.probe()
        model.run_package(load_package(file, dataclasses.replace(model.target(), threads=threads)), verdict.sha256)
        compiled = model.probe()
        if bits(compiled) != verdict.probe:
            raise RefusedPackageError(f"{file} answers a fixed input with other bits than when it was made")
        found = apart(eager, compiled)
        if found > tolerance_of(model.module):  # the module may have changed in what it imports, which no key covers
            words = f"differs from what eager answers now by {found:.1e} of the largest output"
            raise RefusedPackageError(f"{file} {words}")
