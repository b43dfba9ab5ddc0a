"""The figures of each mode, and a sentence that sums them up. Imports no torch."""

from __future__ import annotations

from collections import Counter

import msgspec

#: The modes in their order, by the names that `audit --json` uses.
MODES = (
    "train+grad",
    "eval+grad",
    "eval+classifier_trainable",
    "eval+frozen",
    "eval+no_grad",
    "eval+inference_mode",
    "served",
)
#: The mode whose latency the others are held against.
YARDSTICK = "eval+inference_mode"

#: A difference that rounding alone makes, as a share of the largest output.
ROUNDING = 1e-4


class ModeFigures(msgspec.Struct, kw_only=True):
    """One mode, measured in a process of its own. A figure that could not be had is None.

    Attributes:
        graph_nodes: autograd nodes that one forward built, AccumulateGrad left out.
        saved_tensors, saved_bytes: what that forward saved for a backward pass; a tensor saved twice counts twice.
        held_bytes: memory that is kept alive for it: each storage once, weights and the batch itself left out.
        peak_bytes: the most memory that tensors took at once during a forward, the weights not among them.
        rss_bytes: growth of the process during a forward, as the kernel counts it. It includes what operators allocate
            for themselves, such as oneDNN's copies in a layout of its own. None on a GPU.
        latency_ms: median of several forwards. `latency_ratio` is to `eval+inference_mode`, which took turns with them.
        max_difference: from each example's answer alone under eval() and inference_mode, as a share of the largest.
        batchnorm_changed: whether a forward moved BatchNorm's statistics; None for a model that has none.
        repeatable: whether the same batch twice gave the same bits.
        backward: whether backward() worked; `backward_error` says why not.
        gradients: the parameters that it gave a gradient, by name; `parameters` counts all there are.
        layout: the memory format that it ran in.
        error: why there are no figures; empty if there are.
        words: the row in a sentence.
    """

    mode: str
    graph_nodes: int | None = None
    saved_tensors: int | None = None
    saved_bytes: int | None = None
    held_bytes: int | None = None
    peak_bytes: int | None = None
    rss_bytes: int | None = None
    latency_ms: float | None = None
    latency_ratio: float | None = None
    max_difference: float | None = None
    batchnorm_changed: bool | None = None
    repeatable: bool | None = None
    backward: bool | None = None
    backward_error: str = ""
    gradients: list[str] = []
    parameters: int = 0
    layout: str = "contiguous"
    error: str = ""
    words: str = ""


class Audit(msgspec.Struct, kw_only=True):
    """Figures of one batch through one model in each mode."""

    model: str
    device: str
    batch_size: int
    weights_bytes: int
    modes: list[ModeFigures]


def in_words(figures: ModeFigures) -> str:
    """Sum up the figures in a sentence or two; nothing in it is known beforehand."""
    if figures.error:
        return f"Did not run: {figures.error}"
    return " ".join([_graph_in_words(figures), *_answers_in_words(figures), _backward_in_words(figures)])


def _graph_in_words(figures: ModeFigures) -> str:
    if not figures.graph_nodes and not figures.saved_tensors:
        return "Builds no graph and keeps nothing for a backward pass."
    held = megabytes(figures.held_bytes)
    return f"Builds {figures.graph_nodes} nodes and keeps {held} alive until the output is dropped."


def _answers_in_words(figures: ModeFigures) -> list[str]:
    words = []
    if figures.max_difference is not None and figures.max_difference > ROUNDING:
        words.append(f"Its answers are off by {figures.max_difference:.0%} of the largest.")
    if figures.repeatable is False:
        words.append("The same batch twice gives two answers.")
    if figures.batchnorm_changed:
        words.append("Each forward moves BatchNorm's statistics.")
    return words


def _backward_in_words(figures: ModeFigures) -> str:
    reached = len(figures.gradients)
    if not figures.backward:
        return "backward() refuses."
    if reached == figures.parameters:
        return f"backward() reaches all {reached} parameters."
    return f"backward() reaches {reached} of {figures.parameters} parameters: {parts(figures.gradients)}."


def parts(names: list[str]) -> str:
    """Parameters by the child of the model that they are in, such as `fc (2)`."""
    counted = Counter(name.partition(".")[0] for name in names)
    return ", ".join(f"{child} ({count})" for child, count in counted.items())


def megabytes(size: int | None) -> str:
    """Say a number of bytes in powers of ten, as disks and networks count."""
    if size is None:
        return "-"
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} B"


def number(value: float | None, form: str = "d", unit: str = "") -> str:
    """A figure for a table; a dash for one that could not be had."""
    return "-" if value is None else f"{value:{form}}{unit}"


def yes(fact: bool | None) -> str:
    return "-" if fact is None else "yes" if fact else "no"
