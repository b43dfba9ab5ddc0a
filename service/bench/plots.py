"""The plot of a run: throughput, latency under load, where the time goes, and the bare loop by batch size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from service.audit.drawing import new_figure, save
from service.bench.results import Model, Results

COLOURS = {
    "gradless": "#1f5fa8",
    "bfloat16": "#7b4fa3",
    "open-inference": "#5fa8d3",
    "litserve": "#c8591b",
    "mosec": "#3a8f5c",
    "naive": "#8a8a8a",
    "triton": "#b8a000",
}
NAMES = {
    "gradless": "Gradless",
    "bfloat16": "in bfloat16",
    "open-inference": "by Open Inference",
    "litserve": "LitServe",
    "mosec": "mosec",
    "naive": "naive app",
    "triton": "Triton",
}
STAGES = ("decode", "queue", "forward", "rest")
STAGE_COLOURS = ("#7aa6d6", "#c9c9c9", "#1f5fa8", "#e0a37c")


def draw(results: Results, file: Path) -> None:
    """Draw a row of panels for each model. Every scale begins at 0, except the logarithmic one of the open loop.

    Raises:
        ConfigurationError: matplotlib is missing, or the file cannot be written.
    """
    figure = new_figure(13, 3.6 * len(results.models))
    grid = figure.subplots(len(results.models), 4, squeeze=False)
    for row, model in zip(grid, results.models, strict=True):
        _throughput(row[0], model)
        _stages(row[1], model)
        _batch_sizes(row[2], model)
        _open_loop(row[3], model)
        for axes in row:
            axes.spines[["top", "right"]].set_visible(False)
    save(figure, file)


def _throughput(axes: Any, model: Model) -> None:
    axes.set_title(f"{model.name}: pictures/s by clients", fontsize=10, loc="left")
    for name, loads in model.servers.items():
        positions = [str(load.clients) for load in loads]
        axes.plot(positions, [load.rate for load in loads], marker="o", color=COLOURS[name], label=NAMES[name])
    if model.bare:
        for forward, style in zip(reversed(model.forwards), ("--", ":", "-."), strict=False):
            rate = model.best_bare(forward).rate
            axes.axhline(rate, color="black", linewidth=1, linestyle=style, label=f"bare loop, {forward}")
    _legend_above(axes, 2.0)


def _legend_above(axes: Any, room: float) -> None:
    """Scale the axis from 0 to `room` times its highest value, so that the legend covers no line."""
    axes.set_ylim(0, room * axes.get_ylim()[1])
    axes.legend(frameon=False, fontsize=7, loc="upper left")


def _stages(axes: Any, model: Model) -> None:
    axes.set_title("where a request's time goes, ms", fontsize=10, loc="left")
    loads = model.servers["gradless"]
    bottom = [0.0] * len(loads)
    for stage, colour in zip(STAGES, STAGE_COLOURS, strict=True):
        heights = [_stage(load.stages_ms, stage) for load in loads]
        axes.bar([str(load.clients) for load in loads], heights, bottom=bottom, color=colour, label=stage)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    axes.set_xlabel("clients", fontsize=8)
    axes.legend(frameon=False, fontsize=8)


def _stage(stages: dict[str, float], stage: str) -> float:
    if stage != "rest":
        return stages.get(stage, 0.0)
    return max(0.0, stages.get("total", 0.0) - sum(stages.get(known, 0.0) for known in STAGES[:-1]))


def _batch_sizes(axes: Any, model: Model) -> None:
    axes.set_title("bare loop: ms a picture by batch size", fontsize=10, loc="left")
    width = 0.8 / max(1, len(model.forwards))
    for position, forward in enumerate(model.forwards):
        loop = model.bare_of(forward)
        places = [number + (position - (len(model.forwards) - 1) / 2) * width for number in range(len(loop))]
        heights = [1000 / bare.rate for bare in loop]
        colour = COLOURS["gradless"] if forward == "compiled" else ("#b0b0b0", "#777777")[position]
        axes.bar(places, heights, width, color=colour, label=forward)
    sizes = [str(bare.batch_size) for bare in model.served_bare] if model.bare else []
    axes.set_xticks(range(len(sizes)), sizes)
    _legend_above(axes, 1.3)


def _latencies(axes: Any, model: Model) -> None:
    """Draw p50 and p99 of every server under the same number of clients."""
    axes.set_title("32 clients: ms, p50 and p99", fontsize=10, loc="left")
    for position, (name, loads) in enumerate(model.servers.items()):
        latency = next((load.latency_ms for load in loads if load.clients == 32), {})
        for offset, percentile in ((-0.2, "p50"), (0.2, "p99")):
            alpha = 1.0 if percentile == "p50" else 0.5
            bars = axes.bar(position + offset, latency.get(percentile, 0.0), 0.4, color=COLOURS[name], alpha=alpha)
            axes.bar_label(bars, fmt=lambda ms: f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}", fontsize=8)
    names = [NAMES[name].replace(" ", "\n") for name in model.servers]
    axes.set_xticks(range(len(model.servers)), names, fontsize=8)


def _open_loop(axes: Any, model: Model) -> None:
    found = model.open_loop
    if not found:
        _latencies(axes, model)
        return
    axes.set_title("open loop: ms by share of capacity", fontsize=10, loc="left")
    shares = [100 * step.share for step in found.steps]
    for percentile, colour in (("p50", "#1f5fa8"), ("p99", "#c8591b")):
        axes.plot(shares, [s.latency_ms[percentile] for s in found.steps], marker="o", color=colour, label=percentile)
    axes.axvline(100 * found.knee / found.capacity, color="black", linewidth=1, linestyle=":", label="knee")
    axes.set_yscale("log")
    axes.set_xlabel("% of capacity", fontsize=8)
    axes.legend(frameon=False, fontsize=8)
