"""The proof: that answering requests builds no gradient graph, changes nothing, and depends on the input alone.

It runs in the worker thread, through the function that answers requests. The callable is handed in, so that the proof
covers the engine's own path without importing it. `trial.py` runs the forwards; here they are judged, a rule each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from service.loader.report import Figures, Report, RuleResult
from service.loader.trial import Trial

#: The largest difference that company may make to an answer, as a share of the largest output, by the dtype that a
#: forward computes in. TF32 multiplies with the ten bits of float16.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 3e-3}

#: Inputs whose outputs differ by less than so many tolerances, or than this share, say nothing when answers agree.
CONTRAST_IN_TOLERANCES, MOST_CONTRAST = 100, 0.1
#: Of a model that is not repeatable, company may change an answer by so many times what repetition changes.
NOISE_FACTOR = 10


def prove(
    run_batch: Callable[[Tensor], Any],
    module: nn.Module,
    examples: Tensor,
    sizes: Sequence[int],
    waive: Mapping[str, str] | None = None,
) -> Report:
    """Run a model through what answers requests, and judge what was seen by eight rules.

    At batch 1 and at the largest size it takes four forwards each, at each size between them two.

    Args:
        run_batch: what answers requests, `(N, 3, H, W) uint8` to logits `(N, classes)`; called in this thread's mode.
        module: the module behind it.
        examples: `(2 * largest size, 3, H, W) uint8`, no two alike.
        sizes: batch sizes to try, rising, the first of them 1.
        waive: by rule, the reason why its failure is no refusal.

    Raises:
        Refusal: `run_batch` refuses an example.
    """
    began = time.perf_counter()
    trial = Trial(run_batch, module, examples)
    trial.run(sizes)
    comparison = compare(trial, tolerance_of(module))
    reasons = waive or {}
    rules = []
    for name, judge in JUDGES.items():
        verdict = judge(trial, comparison)
        rules.append(RuleResult(name, verdict.passed, verdict.words, reasons.get(name, "")))
    figures = Figures(
        graph_nodes=sum(watch.graph_nodes for watch in trial.watches),
        saved_tensors=sum(watch.saved_tensors for watch in trial.watches),
        saved_bytes=sum(watch.saved_bytes for watch in trial.watches),
        largest_difference=comparison.difference,
        contrast=comparison.contrast,
        tolerance=comparison.tolerance,
        sizes=list(sizes),
        batch_seconds=trial.batch_seconds(),
        forwards=len(trial.forwards),
        seconds=time.perf_counter() - began,
    )
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return Report(rules, figures, made, comparison.inconclusive)


def tolerance_of(module: nn.Module) -> float:
    """The tolerance for what the module computes in: the dtype of its first parameter of a floating dtype."""
    floating = (p for p in chain(module.parameters(), module.buffers()) if p.is_floating_point())
    first = next(floating, torch.empty(0))
    if first.is_cuda and first.dtype is torch.float32 and torch.backends.cudnn.allow_tf32:
        return TOLERANCES[torch.float16]
    return TOLERANCES.get(first.dtype, TOLERANCES[torch.float32])


@dataclass(frozen=True)
class Comparison:
    """Outputs of the same example in different company, and of different examples; shares of the largest output.

    Attributes:
        difference: the largest that company made, and `where` it did.
        noise: the largest that repetition made.
        contrast: the largest between different examples.
    """

    tolerance: float
    difference: float
    where: str
    noise: float
    contrast: float

    @property
    def inconclusive(self) -> str:
        """Why agreement proves nothing; empty where it proves something."""
        wanted = min(CONTRAST_IN_TOLERANCES * self.tolerance, MOST_CONTRAST)
        if self.contrast >= wanted:
            return ""
        return f"Different inputs differ by {self.contrast:.1e} only; it takes {wanted:.0e} to tell one from another."


def compare(trial: Trial, tolerance: float) -> Comparison:
    """Hold every row of every forward against the first of the same example."""
    scale = max((float(leaf.abs().max()) for leaf in trial.leaves() if leaf.numel()), default=0.0) or 1.0
    first: dict[int, list[Tensor]] = {}
    difference, where = 0.0, ""
    for forward in trial.plain:
        for position, (example, row) in enumerate(forward.rows()):
            found = distance(first.setdefault(example, row), row) / scale
            if found > difference:
                difference, where = found, f"input {position + 1} of {len(forward.order)}"
    noise = max((distance(a.outputs, b.outputs) for a, b in trial.repeated()), default=0.0) / scale
    rows = list(first.values())
    contrast = max((distance(rows[0], row) for row in rows[1:]), default=0.0) / scale
    return Comparison(tolerance, difference, where, noise, contrast)


def distance(one: Iterable[Tensor], other: Iterable[Tensor]) -> float:
    """The largest absolute difference; two NaN are alike, a NaN and a number infinitely far apart."""
    largest = 0.0
    for a, b in zip(one, other, strict=False):  # outputs of another number fail by their bits
        if a.shape != b.shape:
            return float("inf")
        alike = (a == b) | (a.isnan() & b.isnan())
        apart = torch.where(alike, 0.0, (a - b).abs().nan_to_num(nan=float("inf"), posinf=float("inf")))
        largest = max(largest, float(apart.max()) if apart.numel() else 0.0)
    return largest


@dataclass(frozen=True)
class Verdict:
    passed: bool
    words: str


def held(words: str) -> Verdict:
    return Verdict(True, words)


def broken(words: str) -> Verdict:
    return Verdict(False, words)


def judge_eval(trial: Trial, comparison: Comparison) -> Verdict:
    before, after = trial.before.training, trial.after.training
    during = [name for watch in trial.watches for name in watch.training]
    if before:
        return broken(f"{before[0]} is in train mode ({len(before)} modules in all).")
    if after:
        return broken(f"forward put {after[0]} in train mode ({len(after)} modules in all).")
    if during:
        return broken(f"{during[0]} was called in train mode ({len(set(during))} modules in all).")
    return held("No module is in train mode, before, during or after forward.")


def judge_frozen(trial: Trial, comparison: Comparison) -> Verdict:
    before, after = trial.before.unfrozen, trial.after.unfrozen
    during = [name for watch in trial.watches for name in watch.unfrozen]
    if before:
        return broken(f"{before[0]} requires a gradient ({len(before)} parameters in all).")
    if after:
        return broken(f"forward unfroze {after[0]} ({len(after)} parameters in all).")
    if during:
        return broken(f"{during[0]} required a gradient during forward ({len(set(during))} tensors in all).")
    return held("No parameter requires a gradient, before, during or after forward.")


def judge_inference_mode(trial: Trial, comparison: Comparison) -> Verdict:
    off = [where for watch in trial.watches for where in watch.mode_off]
    off += ["after forward" for forward in trial.forwards if forward.left_mode]
    if off:
        return broken(f"Inference mode was off {off[0]} ({len(off)} times in all).")
    return held("Inference mode was on at every module call and every operator.")


def judge_no_graph(trial: Trial, comparison: Comparison) -> Verdict:
    """All three signs are looked at, and the counter: a custom autograd.Function can defeat one (pytorch#77967)."""
    for forward in trial.forwards:
        if forward.graph:
            return broken(forward.graph)
    if nodes := sum(watch.graph_nodes for watch in trial.watches):
        return broken(f"Forward built {nodes} autograd nodes.")
    return held("The output has no grad_fn, and autograd's counter did not move.")


def judge_nothing_saved(trial: Trial, comparison: Comparison) -> Verdict:
    tensors, size = (sum(getattr(watch, name) for watch in trial.watches) for name in ("saved_tensors", "saved_bytes"))
    if tensors:
        return broken(f"Forward saved {tensors} tensors ({size:,} bytes) for a backward pass.")
    return held("Nothing was saved for a backward pass.")


def judge_nothing_changed(trial: Trial, comparison: Comparison) -> Verdict:
    if changed := trial.changed():
        return broken(f"{changed[0]} by forward ({len(changed)} tensors in all).")
    return held(f"All {trial.counted} parameters and buffers have the bits that they had before.")


def judge_repeatable(trial: Trial, comparison: Comparison) -> Verdict:
    for once, again in trial.repeated():
        if not same_bits(once.outputs, again.outputs):
            apart = f"they differ by up to {comparison.noise:.1e} of the largest output"
            return broken(f"The same batch of {len(once.order)} gave different outputs; {apart}.")
    return held("The same input gives the same bits.")


def judge_batch_invariant(trial: Trial, comparison: Comparison) -> Verdict:
    for forward in trial.forwards:
        if forward.wrong_count is not None:
            return broken(f"Forward gave {forward.wrong_count} answers for {len(forward.order)} inputs.")
    difference, noise = comparison.difference, comparison.noise
    found = f"alone and in company an answer differs by up to {difference:.1e} of the largest output"
    allowed = max(comparison.tolerance, NOISE_FACTOR * noise)
    if difference > allowed:
        return broken(f"At {comparison.where}, {found}; {allowed:.0e} is allowed.")
    return held(comparison.inconclusive or f"{found[0].upper()}{found[1:]}; {allowed:.0e} is allowed.")


def same_bits(once: Sequence[Tensor], again: Sequence[Tensor]) -> bool:
    return len(once) == len(again) and all(
        a.shape == b.shape and torch.equal(a.view(torch.int64), b.view(torch.int64))
        for a, b in zip(once, again, strict=True)
    )


#: A function for each rule, in order.
JUDGES: dict[str, Callable[[Trial, Comparison], Verdict]] = {
    "eval": judge_eval,
    "frozen": judge_frozen,
    "inference-mode": judge_inference_mode,
    "no-graph": judge_no_graph,
    "nothing-saved": judge_nothing_saved,
    "nothing-changed": judge_nothing_changed,
    "repeatable": judge_repeatable,
    "batch-invariant": judge_batch_invariant,
}
