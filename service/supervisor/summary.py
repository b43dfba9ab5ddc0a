"""Words of a start: on a terminal a table for a person, else one line of JSON for a log."""

from __future__ import annotations

import sys
from typing import Any

import structlog
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

import service
from service.loader.report import Report
from service.settings import Settings
from service.wire.messages import ModelState

log = structlog.get_logger()

BAR_WIDTH = 40


def said(report: Report) -> str:
    """A proof in a few words."""
    held = sum(rule.passed for rule in report.rules)
    words = [f"{held} of {len(report.rules)} rules hold"]
    words += [f"{rule} waived: {reason}" for rule, reason in report.waivers.items()]
    words += ["inconclusive"] if report.is_inconclusive else []
    words += [f"{finding.name}: {finding.detail}" for finding in report.findings]
    return ", ".join(words)


def _proof(model: ModelState) -> Text:
    """Return a model's proof in words: red where a finding is severe, yellow where there is another."""
    if not model.report:
        return Text(model.detail)
    found = model.report.findings
    return Text(said(model.report), "red" if model.report.severe else "yellow" if found else "")


class StartUp:
    """On a terminal, a bar that says how far a start is. In a log, engines say of each model when it is ready.

    Its line ends where it began: a log line of another process writes over it, and the next bar comes below.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    def show(self, models: list[ModelState]) -> None:
        if not sys.stderr.isatty():
            return
        done = sum(model.state != "loading" for model in models)
        full = BAR_WIDTH * done // max(1, len(models))
        words = f" {done} of {len(models)} models checked"
        line = Text.assemble(("━" * full, "green"), ("━" * (BAR_WIDTH - full), "bright_black"), words)
        self._console.print(line, end="\r")

    def clear(self) -> None:
        if sys.stderr.isatty():
            self._console.control(Control((ControlType.ERASE_IN_LINE, 2)))


def show(settings: Settings, addresses: list[tuple[Any, ...]], models: list[ModelState], devices: list[str]) -> None:
    """Say where the server listens, for clients and for operations, and what it serves."""
    urls = [_url(settings, address) for address in addresses]
    url, operations = urls[0], urls[-1]
    if not sys.stderr.isatty():
        states = {model.name: model.state for model in models}
        waivers = {model.name: model.report.waivers for model in models if model.report and model.report.waivers}
        log.info(
            "serving",
            url=url,
            operations=operations,
            devices=devices,
            models=states,
            waivers=waivers,
            warnings={m.name: [f.detail for f in m.report.findings] for m in models if m.report and m.report.findings},
            tuned={model.name: model.tuned.made for model in models if model.tuned},
            version=service.__version__,
        )
        return
    table = Table(title=f"Gradless {service.__version__} · {url} · {', '.join(devices)}", title_justify="left")
    for heading in ("model", "version", "state", "proof", "batch sizes", "runs as"):
        table.add_column(heading)
    for model in models:
        table.add_row(
            model.name,
            model.version,
            model.state,
            _proof(model),
            " ".join(map(str, model.batch_sizes)),
            _runs_as(model),
        )
    console = Console(stderr=True)
    console.print(table)
    console.print(f"Try: curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' {url}/predict")
    console.print(f"Docs: {url}/docs   Metrics: {operations}/metrics   Stop: Ctrl-C")


def _runs_as(model: ModelState) -> str:
    if not model.tuning:
        return ""
    compiled = model.verdict and model.verdict.state == "compiled"
    words = f"{'compiled' if compiled else model.tuning.memory_format}, {model.tuning.threads} threads"
    words += ", CUDA graphs" if model.cuda_graphs else ""
    return f"{words}, tuned {model.tuned.made[:10]}" if model.tuned else words


def _url(settings: Settings, address: tuple[Any, ...]) -> str:
    scheme = "https" if settings.ssl_certfile else "http"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{scheme}://{host}:{address[1]}"
