"""What a start says: on a terminal a table for a person, else one line of JSON for a log."""

from __future__ import annotations

import sys
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table

import service
from service.engine.wire import ModelState
from service.loader.report import Report
from service.settings import Settings

log = structlog.get_logger()


def said(report: Report) -> str:
    """A proof in a few words."""
    held = sum(rule.passed for rule in report.rules)
    words = [f"{held} of {len(report.rules)} rules hold"]
    words += [f"{rule} waived: {reason}" for rule, reason in report.waivers.items()]
    words += ["inconclusive"] if report.inconclusive else []
    return ", ".join(words)


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
            said(model.report) if model.report else model.detail,
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
