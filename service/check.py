"""`gradless check`: every model of the folder proven in this process, and the proof itself put to the proof."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import torch

import service
from service.allocator import keep_freed_memory
from service.cores import usable_cores
from service.engine.model import ServedModel
from service.errors import ConfigurationError, Refusal
from service.loader.artefact import cpu_features
from service.loader.controls import CONTROLS, Control
from service.loader.load import LoadedModel, load
from service.loader.packages import Packages, RefusedPackageError
from service.loader.report import PENDING, Report, Verdict
from service.loader.repository import ModelFolder, find_models, pick
from service.settings import Settings
from service.vision import torchvision


class Checked(msgspec.Struct):
    """One model: its report, or in `error` why the proof could not be run.

    `optimization` is the verdict on its compiled package, and `package` the proof of the one that answers, if one does.
    """

    model: str
    version: str
    seal: str
    card: dict[str, Any]
    report: Report | None = None
    error: str = ""
    optimization: Verdict | None = None
    package: Report | None = None

    @property
    def passed(self) -> bool:
        return self.report is not None and self.report.passed and (self.package is None or self.package.passed)


class CheckedControl(msgspec.Struct):
    """One control: the rules that must fail, and those that did."""

    name: str
    breaks: list[str]
    broken: list[str]

    @property
    def caught(self) -> bool:
        return self.breaks == self.broken


class Outcome(msgspec.Struct):
    """Everything that a check found, and on what."""

    device: str
    models: list[Checked]
    controls: list[CheckedControl]

    @property
    def passed(self) -> bool:
        return all(model.passed for model in self.models) and all(control.caught for control in self.controls)

    def summary(self) -> dict[str, Any]:
        """What `check --json` prints."""
        models = [
            {"model": m.model, "version": m.version, "passed": m.passed, "error": m.error}
            | (msgspec.to_builtins(m.report) if m.report else {"rules": []})
            | {"optimization": msgspec.to_builtins(m.optimization), "package": msgspec.to_builtins(m.package)}
            for m in self.models
        ]
        missed = [control.name for control in self.controls if not control.caught]
        return {"models": models, "controls": {"run": len(self.controls), "missed": missed}}

    def record(self) -> dict[str, Any]:
        """What `check --report` writes: for an audit, with what was checked, with what and on what."""
        models = [
            shown | {"seal": m.seal, "card": m.card}
            for shown, m in zip(self.summary()["models"], self.models, strict=True)
        ]
        versions = {"gradless": service.__version__, "torch": torch.__version__, "torchvision": torchvision.__version__}
        return {
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "passed": self.passed,
            "device": self.device,
            "versions": versions | {"python": platform.python_version()},
            "machine": {"system": platform.platform(), "cores": usable_cores(), "processor": cpu_features()},
            "models": models,
            "controls": msgspec.to_builtins(self.controls),
        }


def check_models(names: list[str], settings: Settings, progress: Callable[[str], object]) -> Outcome:
    """Prove the named models, or all; then run the controls. `progress` is told what comes next.

    Raises:
        ConfigurationError: cards, weights or labels do not fit; every fault of every model at once.
    """
    keep_freed_memory()
    folders = find_models(settings.models)
    chosen = pick(folders, names or list(folders), "check")
    device = torch.device(settings.first_device(torch.cuda.is_available()))
    threads = settings.threads or usable_cores()
    torch.set_num_threads(threads)
    problems: list[str] = []
    checked = []
    packages = Packages(settings.cache.expanduser())
    for folder in chosen.values():
        progress(folder.name)
        try:
            checked.append(_check(folder, load(folder), device, threads, packages))
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    progress("the controls")
    return Outcome(str(device), checked, [_check_control(control) for control in CONTROLS])


def _check(folder: ModelFolder, loaded: LoadedModel, device: torch.device, threads: int, packages: Packages) -> Checked:
    checked = Checked(folder.name, loaded.version, loaded.seal, folder.card.model_dump(mode="json", exclude_none=True))
    with torch.inference_mode(False):  # a forward that leaves the mode leaves it up to here
        try:
            served = ServedModel(loaded, folder.card, device)
            served.tune(None, threads)
            with torch.inference_mode():
                checked.report = served.check(served.sizes)
                _check_package(checked, served, packages, served.artefact_key(threads))
        except Refusal as refusal:
            checked.error = refusal.detail
        except Exception as error:  # the operator's code, which may raise anything
            checked.error = f"forward raised {type(error).__name__}: {error}"
    return checked


def _check_package(checked: Checked, served: ServedModel, packages: Packages, key: str) -> None:
    """The same proof of the package that a server would answer with."""
    verdict = checked.optimization = packages.read(key)
    if verdict and verdict.state == "compiled":
        try:
            served.use_package(packages, key, verdict)
        except RefusedPackageError as error:
            checked.optimization = msgspec.structs.replace(PENDING, detail=f"the package is refused: {error}")
        else:
            checked.package = served.check(served.sizes)


def _check_control(control: Control) -> CheckedControl:
    return CheckedControl(control.name, sorted(control.breaks), sorted(control.prove().broken))


def show_progress(what: str) -> None:
    if sys.stderr.isatty():
        print(f"proving {what} …", file=sys.stderr)
