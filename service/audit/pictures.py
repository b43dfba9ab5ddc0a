"""The modes as a picture and as a page that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from service.audit.figures import Audit, ModeFigures, megabytes, number, yes
from service.errors import ConfigurationError

#: Serves every panel: what gradients cost is blue, what is measured in time is orange.
BLUE, ORANGE = "#1f5fa8", "#c8591b"
#: Behind a label, so that no line runs through it.
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1}

Value = Callable[[ModeFigures], float | None]

_PANELS: tuple[tuple[str, str, Value], ...] = (
    ("kept alive for backward, MB", BLUE, lambda row: None if row.held_bytes is None else row.held_bytes / 1e6),
    ("peak above the weights, MB", BLUE, lambda row: None if row.peak_bytes is None else row.peak_bytes / 1e6),
    ("latency, ms", ORANGE, lambda row: row.latency_ms),
)


def write_plot(audit: Audit, file: Path) -> None:
    """Three rows of bars beside each other, a bar a mode.

    Raises:
        ConfigurationError: matplotlib is missing, or the file cannot be written.
    """
    figure = new_figure(11, 3.6)
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (title, colour, value) in zip(panels, _PANELS, strict=True):
        bars(axes, title, colour, [(row.mode, value(row)) for row in audit.modes])
    panels[0].invert_yaxis()  # shared by all panels: the first mode comes on top
    figure.suptitle(f"{audit.model}, batch of {audit.batch_size}, {audit.device}", x=0.01, ha="left")
    save(figure, file)


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib figure that needs no display; sizes are in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigurationError(["--plot: matplotlib is missing; install gradless[bench]"]) from None
    return Figure(figsize=(width, height), layout="constrained")


def bars(axes: Any, title: str, colour: str, rows: Sequence[tuple[str, float | None]]) -> None:
    """Horizontal bars with their values at their ends."""
    values = [value or 0.0 for _, value in rows]
    drawn = axes.barh([name for name, _ in rows], values, color=colour)
    axes.bar_label(drawn, [_label(value) for _, value in rows], padding=3, fontsize=9, bbox=_PAPER)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlim(0, max([*values, 1e-9]) * 1.22)  # room for the largest one's label
    axes.spines[["top", "right"]].set_visible(False)


def _label(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def save(figure: Any, file: Path) -> None:
    try:
        figure.savefig(file, dpi=110)
    except (OSError, ValueError) as error:
        raise ConfigurationError.at("--plot", str(file), str(error), "name a .png in a folder that is there") from error


_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; width: 100% }
th, td { text-align: right; padding: .4rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top }
th:first-child, td:first-child, td.words { text-align: left }
td.words { color: #444; min-width: 18rem }
.bar { background: #1f5fa8; height: .4rem; margin-left: auto }
"""
_HEADINGS = (
    *("mode", "graph nodes", "saved tensors", "saved", "kept alive", "peak", "latency", "ratio"),
    *("difference", "BatchNorm moved", "repeatable", "backward()", "gradients", ""),
)


def write_page(audit: Audit, file: Path) -> None:
    """One HTML file with its style inside.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    most = max([row.held_bytes or 0 for row in audit.modes] + [1])
    title = f"{audit.model}: gradient modes, batch of {audit.batch_size} on {audit.device}"
    headings = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    rows = "\n".join(_row(row, most) for row in audit.modes)
    page = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>\n{_STYLE}</style>\n<h1>{escape(title)}</h1>\n"
        f"<p>{megabytes(audit.weights_bytes)} of weights. Each mode ran in a process of its own.</p>\n"
        f"<table>\n<tr>{headings}</tr>\n{rows}\n</table>\n</html>\n"
    )
    try:
        file.write_text(page)
    except OSError as error:
        words = error.strerror or str(error)
        raise ConfigurationError.at("--html", str(file), words, "name a file in a folder that is there") from error


def _row(row: ModeFigures, most: int) -> str:
    share = 100 * (row.held_bytes or 0) / most
    cells = [
        *(number(row.graph_nodes), number(row.saved_tensors), megabytes(row.saved_bytes)),
        f'{megabytes(row.held_bytes)}<div class="bar" style="width:{share:.1f}%"></div>',
        *(megabytes(row.peak_bytes), number(row.latency_ms, ".1f", " ms"), number(row.latency_ratio, ".2f")),
        *(number(row.max_difference, ".1e"), yes(row.batchnorm_changed), yes(row.repeatable), yes(row.backward)),
        f"{len(row.gradients)} of {row.parameters}",
    ]
    filled = "".join(f"<td>{cell}</td>" for cell in [escape(row.mode), *cells])
    return f'<tr>{filled}<td class="words">{escape(row.words)}</td></tr>'
