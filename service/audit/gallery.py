"""The figures of docs/gradient-control.md: measured here, kept as numbers, drawn from them.

`python -m service.audit.gallery docs/figures` takes some minutes; `make figures` runs it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from service.audit.audits import run_audit
from service.audit.drawing import BLUE, ORANGE, bars, new_figure, save
from service.audit.figures import Audit, megabytes, number, yes
from service.audit.forward_costs import GraphWatch, MemoryTally, known_tensors
from service.audit.fresh_process import in_child
from service.host.vision import torchvision
from service.settings import read_settings

AUDITED = ("efficientnet_lite0", "torchvision:resnet18", "torchvision:vgg16")
DEPTHS = ("resnet18", "resnet34", "resnet50", "resnet101")
BATCHES = (1, 2, 4, 8, 16, 32)
STEPS = 7
VGG16_STATES = ("all trainable", "features frozen", "all frozen")
NUMBERS = "figures.json"


def main(folder: Path) -> None:
    """Measure everything, each part in a process of its own, and draw it."""
    folder.mkdir(parents=True, exist_ok=True)
    audits = [run_audit(read_settings({"device": "cpu"}), model, 8) for model in AUDITED]
    numbers = {
        "modes": json.loads(msgspec.json.encode(audits)),
        "depth": in_child(answer_all, "depth"),
        "batch": in_child(answer_all, "batch"),
        "vgg16": in_child(answer_all, "vgg16"),
    }
    (folder / NUMBERS).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    draw(folder)


def answer_all(connection: Any, what: str) -> None:
    """Entry point of a part's child."""
    torch.manual_seed(0)
    measures = {"depth": by_depth, "batch": by_batch, "vgg16": vgg16_by_state}
    connection.send(("answer", measures[what]()))


def by_depth() -> list[dict[str, Any]]:
    """Measure what one forward of eight pictures in eval() keeps, by depth of the network."""
    return [{"model": name} | kept(torchvision.models.get_model(name).eval(), pictures(8)) for name in DEPTHS]


def by_batch() -> list[dict[str, Any]]:
    model = torchvision.models.resnet18().eval()
    rows = [{"batch": size} | kept(model, pictures(size)) for size in BATCHES]
    with torch.inference_mode():
        return [row | {"inference_held_bytes": kept(model, pictures(row["batch"]))["held_bytes"]} for row in rows]


def vgg16_by_state() -> list[dict[str, Any]]:
    """VGG16 in the three states of the question, eight pictures; the states take turns at a forward and backward."""
    model, images = torchvision.models.vgg16().eval(), pictures(8)
    rounds = [{state: step_seconds(vgg16_in(model, state), images) for state in VGG16_STATES} for _ in range(STEPS)]
    return [
        {"state": state, "step_ms": 1000 * statistics.median(seconds[state] for seconds in rounds)}
        | memory_of(vgg16_in(model, state), images)
        for state in VGG16_STATES
    ]


def vgg16_in(model: nn.Module, state: str) -> nn.Module:
    model.requires_grad_(state != "all frozen")
    if state == "features frozen":
        model.get_submodule("features").requires_grad_(False)
    return model


def memory_of(model: nn.Module, images: Tensor) -> dict[str, int]:
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    with MemoryTally(known_tensors(model, images)) as tally:
        model(images)
    return {"trainable": trainable, "peak_bytes": tally.peak_bytes} | kept(model, images)


def step_seconds(model: nn.Module, images: Tensor) -> float:
    """A forward, and a backward where there is a graph to run it through."""
    model.zero_grad(set_to_none=True)
    began = time.perf_counter()
    output = model(images)
    if output.requires_grad:
        output.square().mean().backward()
    return time.perf_counter() - began


def kept(model: nn.Module, images: Tensor) -> dict[str, int]:
    """Nodes, saved tensors, saved bytes and memory kept alive of one forward with gradients on."""
    with GraphWatch(known_tensors(model, images)) as watch:
        model(images)
    return {
        "graph_nodes": watch.graph_nodes,
        "saved_tensors": watch.saved_tensors,
        "saved_bytes": watch.saved_bytes,
        "held_bytes": watch.held_bytes,
    }


def pictures(count: int) -> Tensor:
    """`(N, 3, 224, 224) float32`; what is kept does not depend on what they show."""
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def draw(folder: Path) -> None:
    """The pictures, from the numbers that are kept beside them."""
    numbers = json.loads((folder / NUMBERS).read_bytes())
    draw_saved(numbers, folder / "saved-bytes.png")
    draw_latency(msgspec.convert(numbers["modes"], list[Audit]), folder / "latency.png")
    draw_vgg16(numbers["vgg16"], folder / "vgg16.png")


def draw_saved(numbers: dict[str, Any], file: Path) -> None:
    figure = new_figure(10, 3.4)
    left, right = figure.subplots(1, 2)
    rows = [(row["model"], row["held_bytes"] / 1e6) for row in numbers["depth"]]
    bars(left, "kept for backward by depth, batch of 8, MB", BLUE, rows)
    left.invert_yaxis()
    sizes = [row["batch"] for row in numbers["batch"]]
    right.plot(sizes, [row["held_bytes"] / 1e6 for row in numbers["batch"]], "o-", color=BLUE)
    right.plot(sizes, [row["inference_held_bytes"] / 1e6 for row in numbers["batch"]], "o-", color=ORANGE)
    most = numbers["batch"][-2]["held_bytes"] / 1e6
    right.annotate("eval()", (sizes[-2], most), (-44, 6), textcoords="offset points")
    right.annotate("eval() and inference_mode", (sizes[-1], 0), (-160, 7), textcoords="offset points")
    right.set_title("kept for backward by batch size, resnet18, MB", fontsize=10, loc="left")
    right.set_xticks(sizes, [str(size) if size > 2 else "" for size in sizes])
    right.set_xlabel("pictures in the batch")
    right.spines[["top", "right"]].set_visible(False)
    save(figure, file)


def draw_latency(audits: list[Audit], file: Path) -> None:
    figure = new_figure(12, 3.4)
    panels = figure.subplots(1, len(audits), sharey=True, sharex=True)
    for axes, audit in zip(panels, audits, strict=True):
        rows = [(figures.mode, figures.latency_ratio) for figures in audit.modes]
        bars(axes, f"{audit.model}, batch of {audit.batch_size}", ORANGE, rows)
        axes.axvline(1, color="#666", linewidth=1, linestyle=":", zorder=0.5)
    panels[0].set_xlim(0, 1.25 * max(figures.latency_ratio or 0 for audit in audits for figures in audit.modes))
    panels[0].invert_yaxis()  # shared by all panels
    figure.suptitle("time of a forward, as a multiple of eval+inference_mode", x=0.01, ha="left", fontsize=11)
    save(figure, file)


def draw_vgg16(rows: list[dict[str, Any]], file: Path) -> None:
    figure = new_figure(12, 2.3)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (title, colour, key, factor) in zip(
        panels,
        (
            ("parameters that train, millions", BLUE, "trainable", 1e6),
            ("kept for backward, MB", BLUE, "held_bytes", 1e6),
            ("forward and backward, all frozen is 1", ORANGE, "step_ms", rows[-1]["step_ms"]),
        ),
        strict=True,
    ):
        bars(axes, title, colour, [(row["state"], row[key] / factor) for row in rows])
    panels[0].invert_yaxis()
    save(figure, file)


def slowdown(audits: list[Audit]) -> str:
    """Say how much a graph slows a forward down, in the words of the page."""
    ratios = [figures.latency_ratio for audit in audits for figures in audit.modes if figures.mode == "eval+grad"]
    slower = [ratio - 1 for ratio in ratios if ratio]
    return f"{min(slower):.0%} to {max(slower):.0%} longer"


def modes_table(audit: Audit) -> str:
    """A model's modes as a Markdown table, as the page has it."""
    lines = [
        "| mode | graph nodes | saved tensors | kept alive | peak | difference | repeatable | gradients |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in audit.modes:
        cells = (
            *(f"`{row.mode}`", number(row.graph_nodes), number(row.saved_tensors)),
            *(megabytes(row.held_bytes), megabytes(row.peak_bytes), number(row.max_difference, ".0e")),
            *(yes(row.repeatable), f"{len(row.gradients)} of {row.parameters}"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def vgg16_table(rows: list[dict[str, Any]]) -> str:
    """VGG16's three states as a Markdown table, as the page has it."""
    lines = [
        "| VGG16 | parameters that train | graph nodes | saved tensors | kept alive | peak |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        sizes = f"{megabytes(row['held_bytes'])} | {megabytes(row['peak_bytes'])}"
        lines.append(
            f"| {row['state']} | {row['trainable']:,} | {row['graph_nodes']} | {row['saved_tensors']} | {sizes} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
