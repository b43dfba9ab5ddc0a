"""Find a user's function, call it under the sensors, and judge it, in a process of its own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from service.audit.fresh_process import answering
from service.audit.script.calls import ScriptTrial
from service.audit.script.judge import judge
from service.audit.script.lines import Lines
from service.audit.script.pitfalls import ScriptAudit
from service.audit.script.script_watch import ScriptWatch
from service.errors import ConfigurationError, blamed_on
from service.host.cores import usable_cores

_FIX = "--script takes app.py:NAME or module:NAME, of a function or module that takes a batch"

#: Message of backward() on a loss without a graph: a pitfall to be judged, not a fault of the call.
_NO_GRAPH = "does not require grad"


@dataclass(frozen=True)
class ScriptOrder:
    """The function to audit, `app.py:NAME` or `module:NAME`, called with a batch of this shape on this device."""

    script: str
    shape: tuple[int, ...]
    device: str
    threads: int


def audit_function(connection: Connection, order: ScriptOrder) -> None:
    """Entry point of the child: sends a ScriptAudit."""
    torch.set_num_threads(order.threads or usable_cores())
    torch.manual_seed(0)
    with answering(connection) as answer:
        source, name = _source(order.script)
        lines = Lines(source.parent)
        with ScriptWatch(lines) as watch:
            function = _function(source, name, order.script)
            batch = torch.randn(order.shape).to(order.device)
            trial = ScriptTrial(function, batch, watch, lines)
            trial.run()
            answer(_judged(trial, order))


def _judged(trial: ScriptTrial, order: ScriptOrder) -> ScriptAudit:
    if trial.error and _NO_GRAPH not in str(trial.error[0]):
        error, line = trial.error
        words = f"raised {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        fix = "give the shape of one example that it takes with --shape"
        raise ConfigurationError.at(f"{line.file or order.script}:{line.number}", "script", words, fix)
    return ScriptAudit(
        script=order.script,
        batch_shape=list(order.shape),
        calls=len(trial.calls),
        training=trial.training,
        pitfalls=judge(trial),
    )


def _source(script: str) -> tuple[Path, str]:
    """Return the file of a script and the name in it; a module is found as `python -m` finds it."""
    place, _, name = script.rpartition(":")
    if not place or not name:
        raise ConfigurationError.at("--script", script, "names no function", _FIX)
    if place.endswith(".py"):
        file = Path(place)
    else:
        sys.path.insert(0, "")
        with blamed_on("--script", script, "looking for it", _FIX):
            spec = importlib.util.find_spec(place)
        file = Path(spec.origin) if spec and spec.origin else Path(place)
    if not file.is_file():
        raise ConfigurationError.at("--script", script, f"{file} is not there", _FIX)
    return file.resolve(), name


def _function(file: Path, name: str, script: str) -> Callable[[Any], Any]:
    module = _imported(file, script)
    found = getattr(module, name, None)
    if not callable(found):
        have = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigurationError.at(file, name, "is not a function in it", f"there are {', '.join(have) or 'none'}")
    return found  # type: ignore[no-any-return]


def _imported(file: Path, script: str) -> ModuleType:
    place = script.rpartition(":")[0]
    with blamed_on(file, "script", "importing it", "it must import without being run as a program"):
        if not place.endswith(".py"):
            return importlib.import_module(place)
        sys.path.insert(0, str(file.parent))  # as for a program that is run: it finds its neighbours
        spec = importlib.util.spec_from_file_location(file.stem, file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module
        spec.loader.exec_module(module)
        return module
