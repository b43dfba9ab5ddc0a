"""The modes of an audit as a plot, and the parts that every plot is drawn with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from service.audit.figures import Audit, ModeFigures
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
    """Make an empty matplotlib figure that needs no display; sizes are in inches."""
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
