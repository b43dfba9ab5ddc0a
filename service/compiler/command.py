"""`gradless compile`: compile ahead of serving, such as for an image that then needs no compiler."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

import msgspec
import torch
from rich.console import Console
from rich.table import Table

from service.compiler.compile import Judged, Place, compile_model
from service.host.allocator import keep_freed_memory
from service.host.cores import usable_cores
from service.loader.repository import find_models, pick
from service.settings import Settings

#: Verdicts that count as success: the package answers, or there is nothing to gain.
_WELL = ("compiled", "slower", "off")


def compile_models(names: list[str], settings: Settings, anew: bool, as_json: bool) -> int:
    """Compile the named models, or all, and print each verdict; returns the exit code.

    Raises:
        ConfigurationError: there is no such model, or it cannot be loaded.
    """
    keep_freed_memory()
    folders = find_models(settings.models)
    chosen = pick(folders, names or list(folders), "compile")
    device = torch.device(settings.first_device(torch.cuda.is_available()))
    place = Place(device, settings.threads or usable_cores(), settings.cache)
    found = []
    with tempfile.TemporaryDirectory(prefix="gradless-compile-") as work:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = work  # else what the compiler leaves there stays
        for name, folder in chosen.items():
            if sys.stderr.isatty():
                print(f"compiling {name} …", file=sys.stderr)
            found.append(compile_model(folder, place, {}, thorough=True, anew=anew))
            if not as_json:
                _show(found[-1])
    if as_json:
        print(msgspec.json.format(msgspec.json.encode({"models": [_told(one) for one in found]})).decode())
    return 0 if all(one.verdict.state in _WELL for one in found) else 1


def _told(judged: Judged) -> Any:
    return {"model": judged.model, "version": judged.version} | msgspec.to_builtins(judged.verdict)


def _show(judged: Judged) -> None:
    verdict = judged.verdict
    console = Console()
    if verdict.candidates:
        sizes = sorted(verdict.candidates[0].seconds)
        table = Table(title=f"{judged.model}: examples/s of the forward by batch size", title_justify="left")
        table.add_column("candidate")
        for size in sizes:
            table.add_column(str(size), justify="right")
        for candidate in verdict.candidates:
            table.add_row(candidate.name, *(f"{size / candidate.seconds[size]:.1f}" for size in sizes))
        console.print(table)
    print(f"{judged.model}: {verdict.state}: {verdict.detail}.")
    if verdict.inputs:
        same = "the same bits at every batch size" if verdict.equal_bits else "not the same bits at every batch size"
        print(
            f"Beside eager on {verdict.inputs}: outputs differ by up to {verdict.difference:.1e} of the largest, "
            f"probabilities by {verdict.probability_difference:.1e}; {same}."
        )
