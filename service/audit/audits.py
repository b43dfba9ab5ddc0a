"""`gradless audit`: measure each mode in a fresh child process, one after the other, and print the results."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from service.audit.drawing import new_figure, write_plot
from service.audit.figures import MODES, Audit, ModeFigures, in_words
from service.audit.fresh_process import in_child
from service.audit.mode_measurement import ModelOrder, measure_mode, measure_reference
from service.audit.output import print_json, print_pitfalls, print_table
from service.audit.page import write_page
from service.audit.script.function_audit import ScriptOrder, audit_function
from service.audit.script.pitfalls import ScriptAudit
from service.errors import ConfigurationError
from service.loader.card import Card
from service.loader.repository import ModelFolder, choose_default, find_models
from service.settings import Settings
from service.supervisor.launch import list_cuda_devices

_TORCHVISION = "torchvision:"


def audit_model(
    settings: Settings, model: str | None, batch_size: int, as_json: bool, plot: Path | None, html: Path | None
) -> None:
    """Measure, print, and write what was asked for."""
    if plot:
        new_figure(1, 1)  # fails before minutes of measuring if nothing can be drawn
    audit = run_audit(settings, model, batch_size)
    show = print_json if as_json else print_table
    show(audit)
    if plot:
        write_plot(audit, plot)
    if html:
        write_page(audit, html)


def audit_script(settings: Settings, script: str, shape: str, batch_size: int, as_json: bool) -> int:
    """Look for pitfalls and print them; return the exit code: 1 if there are any.

    Raises:
        ConfigurationError: no such function, or it cannot be called with a batch of this shape.
    """
    try:
        sizes = tuple(int(size) for size in shape.split(","))
    except ValueError:
        raise ConfigurationError.at("--shape", shape, "is not a shape", "say 3,224,224") from None
    if min(sizes) < 1:
        raise ConfigurationError.at("--shape", shape, "is not a shape", "each size is 1 or more")
    device = "cpu" if settings.device == "auto" else find_device(settings)  # where a script most likely keeps its model
    order = ScriptOrder(script, (batch_size, *sizes), device, settings.threads)
    audit: ScriptAudit = in_child(audit_function, order)
    show = print_json if as_json else print_pitfalls
    show(audit)
    return 1 if audit.pitfalls else 0


def run_audit(settings: Settings, model: str | None, batch_size: int) -> Audit:
    """Measure the model in every mode.

    Raises:
        ConfigurationError: no such model or device, or the model cannot be loaded or does not run at all.
    """
    folder, device = find_model(settings, model), find_device(settings)
    order = ModelOrder(folder, device, batch_size, settings.threads)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("reference", total=len(MODES) + 1)
        weights_bytes, reference = in_child(measure_reference, order)
        modes: list[ModeFigures] = []
        for mode in MODES:
            progress.update(task, description=mode, advance=1)
            modes.append(in_child(measure_mode, order, mode, reference))
    for figures in modes:
        figures.words = in_words(figures)
    return Audit(model=folder.name, device=device, batch_size=batch_size, weights_bytes=weights_bytes, modes=modes)


def find_model(settings: Settings, wanted: str | None) -> ModelFolder:
    """Return a model of the repository, or `torchvision:NAME` with random weights.

    Raises:
        ConfigurationError: there is no such model.
    """
    if wanted and wanted.startswith(_TORCHVISION):
        card = Card.model_validate({"weights": "random:1", "architecture": wanted})
        return ModelFolder(wanted.removeprefix(_TORCHVISION), Path(wanted), card)
    folders = find_models(settings.models)
    if wanted and wanted not in folders:
        names = ", ".join(sorted(folders))
        raise ConfigurationError.at(
            "audit", "model", f"there is no model {wanted!r}", f"there are {names}; or say torchvision:NAME"
        )
    return folders[choose_default(folders, wanted or settings.default_model)]


def find_device(settings: Settings) -> str:
    """Return the one device to measure on: the first GPU if there is one and none was named.

    Raises:
        ConfigurationError: the device is not there.
    """
    wanted = settings.device.split(",")[0].strip()
    if wanted == "cpu":
        return wanted
    there: list[str] = [name for name in in_child(list_cuda_devices, raw=True).decode().split(",") if name]
    found = there[:1] or ["cpu"] if wanted == "auto" else [name for name in there if wanted in (name, "cuda")]
    if not found:
        have = ", ".join(["cpu", *there])
        raise ConfigurationError.at("settings", "device", f"{wanted} is not there", f"this machine has {have}")
    return found[0]
