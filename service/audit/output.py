"""Output of `gradless audit`: tables for a person, JSON for a program."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.audit.figures import Audit, megabytes, number, yes
from service.audit.script.pitfalls import ScriptAudit

_LEGEND = """\
nodes of the graph; tensors saved for backward; kept alive, each storage once; peak of tensors above the weights;
growth of the process; latency, and its ratio to eval+inference_mode, which took turns"""


def print_json(audit: Audit | ScriptAudit) -> None:
    print(msgspec.json.format(msgspec.json.encode(audit), indent=2).decode())


def print_table(audit: Audit) -> None:
    """Print two tables, the costs and the effects of each mode; then a sentence for each."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(_costs(audit))
    console.print(_effects(audit))
    for figures in audit.modes:
        console.print(f"[bold]{figures.mode}[/bold]: {escape(figures.words)}", highlight=False)


def _costs(audit: Audit) -> Table:
    title = f"{audit.model} on {audit.device}, batch of {audit.batch_size}, {megabytes(audit.weights_bytes)} of weights"
    table = Table(title=title, title_justify="left", caption=_LEGEND, caption_justify="left")
    for heading in ("mode", "nodes", "tensors", "saved", "kept alive", "peak", "process", "latency", "ratio"):
        table.add_column(heading, justify="left" if heading == "mode" else "right")
    for row in audit.modes:
        sizes = (megabytes(size) for size in (row.saved_bytes, row.held_bytes, row.peak_bytes, row.rss_bytes))
        counts = (number(row.graph_nodes), number(row.saved_tensors))
        table.add_row(row.mode, *counts, *sizes, number(row.latency_ms, ".1f", " ms"), number(row.latency_ratio, ".2f"))
    return table


def _effects(audit: Audit) -> Table:
    table = Table()
    for heading in ("mode", "difference", "BatchNorm moved", "repeatable", "backward()", "gradients", "layout"):
        table.add_column(heading)
    for row in audit.modes:
        reached = f"{len(row.gradients)} of {row.parameters}"
        facts = (yes(row.batchnorm_changed), yes(row.repeatable), yes(row.backward))
        table.add_row(row.mode, number(row.max_difference, ".1e"), *facts, reached, row.layout)
    return table


def print_pitfalls(audit: ScriptAudit) -> None:
    """Print a paragraph a pitfall: the line, what was seen, its cost, and the fix."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for found in audit.pitfalls:
        place = f"{_shortest(found.file)}:{found.line}"
        console.print(f"[bold]{escape(place)}: {found.pitfall}[/bold]", soft_wrap=True)
        console.print(f"  {escape(found.what)} {escape(found.cost)}\n  Fix: {escape(found.fix)}.")
    kind = "training" if audit.training else "inference"
    found_words = {0: "No pitfall", 1: "1 pitfall"}.get(len(audit.pitfalls), f"{len(audit.pitfalls)} pitfalls")
    console.print(f"{found_words} in {audit.calls} calls of {escape(audit.script)} ({kind}).")


def _shortest(file: str) -> str:
    """Return a path as people type it: relative to the working directory if it is inside."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
