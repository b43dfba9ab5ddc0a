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
from service.engine.cache_keys import package_key
from service.engine.measure import Stopwatch
from service.engine.model import ServedModel
from service.engine.package import use_package
from service.errors import ConfigurationError, Refusal, raised_words
from service.host.allocator import keep_freed_memory
from service.host.cores import usable_cores
from service.host.vision import torchvision
from service.loader.artefact import cpu_features
from service.loader.controls import CONTROLS, ControlModel
from service.loader.load import LoadedModel, load
from service.loader.packages import Packages, RefusedPackageError
from service.loader.report import Report
from service.loader.repository import Faulty, ModelFolder, pick, survey
from service.loader.verdict import PENDING, Verdict
from service.settings import Settings


class Checked(msgspec.Struct):
    """One model: its report, or in `error` why the proof could not be run; `wrong` if its card or files are at fault.

    `optimization` is the verdict on its compiled package, and `package` the proof of the one that answers, if one does.
    """

    model: str
    version: str
    seal: str
    card: dict[str, Any]
    report: Report | None = None
    error: str = ""
    wrong: bool = False
    optimization: Verdict | None = None
    package: Report | None = None

    @property
    def proven(self) -> bool:
        """Return whether a server would serve the model."""
        reports = [self.report, *([self.package] if self.package else [])]
        return all(report is not None and report.passed for report in reports)

    @property
    def passed(self) -> bool:
        return self.proven and not any(report and report.severe for report in (self.report, self.package))

    @property
    def line(self) -> str:
        """Sum up the check, for progress."""
        if self.report is None:
            return f"{self.model}: cannot be checked: {self.error}"
        severe = [finding.name for finding in self.report.findings if finding.level == "severe"]
        words = ["proven" if self.proven else "refused", *severe, f"{self.report.figures.seconds:.1f} s"]
        return f"{self.model}: {', '.join(words)}"


class CheckedControl(msgspec.Struct):
    """One control: the rules and findings that it must break, and those that it broke."""

    name: str
    breaks: list[str]
    broken: list[str]

    @property
    def caught(self) -> bool:
        return self.breaks == self.broken


class CheckOutcome(msgspec.Struct):
    """Everything that a check found, and its device; there are no controls if a card is wrong."""

    device: str
    models: list[Checked]
    controls: list[CheckedControl]

    @property
    def passed(self) -> bool:
        return all(model.passed for model in self.models) and all(control.caught for control in self.controls)

    @property
    def exit_code(self) -> int:
        return 2 if any(model.wrong for model in self.models) else 0 if self.passed else 1

    def summary(self) -> dict[str, Any]:
        """Return what `check --json` prints."""
        models = [
            {"model": m.model, "version": m.version, "passed": m.passed, "error": m.error}
            | (msgspec.to_builtins(m.report) if m.report else {"rules": []})
            | {"optimization": msgspec.to_builtins(m.optimization), "package": msgspec.to_builtins(m.package)}
            for m in self.models
        ]
        missed = [control.name for control in self.controls if not control.caught]
        return {"models": models, "controls": {"run": len(self.controls), "missed": missed}}

    def record(self) -> dict[str, Any]:
        """Return what `check --report` writes for an audit: the models, the versions and the machine of this check."""
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


def check_models(names: list[str], settings: Settings, progress: Callable[[str], object]) -> CheckOutcome:
    """Prove the named models, or all; then run the controls. `progress` gets a line as each model is done.

    Raises:
        ConfigurationError: there are no models, or none of that name.
    """
    keep_freed_memory()
    folders, faulty = survey(settings.models)
    there: dict[str, ModelFolder | Faulty] = {**folders, **faulty}
    chosen = pick(there, names or sorted(there), "check")
    device = torch.device(settings.first_device(torch.cuda.is_available()))
    threads = settings.threads or usable_cores()
    torch.set_num_threads(threads)
    packages = Packages(settings.cache)
    outcome = CheckOutcome(str(device), [], [])
    for name, folder in chosen.items():
        if isinstance(folder, Faulty):
            checked = _wrong(name, folder.problems)
        else:
            checked = _load_and_check(folder, device, threads, packages)
        progress(checked.line)
        outcome.models.append(checked)
    if not any(checked.wrong for checked in outcome.models):
        progress("now the controls, which must fail")
        outcome.controls += map(_check_control, CONTROLS)
    return outcome


def _wrong(name: str, problems: list[str]) -> Checked:
    return Checked(name, "", "", {}, error="; ".join(problems), wrong=True)


def _load_and_check(folder: ModelFolder, device: torch.device, threads: int, packages: Packages) -> Checked:
    try:
        return _check(folder, load(folder), device, threads, packages)
    except ConfigurationError as error:
        return _wrong(folder.name, error.problems)


def _check(folder: ModelFolder, loaded: LoadedModel, device: torch.device, threads: int, packages: Packages) -> Checked:
    checked = Checked(folder.name, loaded.version, loaded.seal, folder.card.model_dump(mode="json", exclude_none=True))
    with torch.inference_mode(False):  # a forward that leaves the mode leaves it up to here
        try:
            served = ServedModel(loaded, device)
            Stopwatch(served).tune(None, threads)
            with torch.inference_mode():
                checked.report = served.check(served.sizes)
                _check_package(checked, served, packages, package_key(served, threads))
        except Refusal as refusal:
            checked.error = refusal.detail
        except Exception as error:  # the operator's code, which may raise anything
            checked.error = f"forward {raised_words(error, folder.path)}"
    return checked


def _check_package(checked: Checked, served: ServedModel, packages: Packages, key: str) -> None:
    """Prove the package that a server would answer with, too."""
    verdict = checked.optimization = packages.read(key)
    if verdict and verdict.state == "compiled":
        try:
            use_package(served, packages, key, verdict)
        except RefusedPackageError as error:
            checked.optimization = msgspec.structs.replace(PENDING, detail=f"the package is refused: {error}")
        else:
            checked.package = served.check(served.sizes)


def _check_control(control: ControlModel) -> CheckedControl:
    return CheckedControl(control.name, sorted(control.breaks), sorted(control.seen(control.prove())))


def show_progress(line: str) -> None:
    print(f"gradless: {line}", file=sys.stderr, flush=True)
