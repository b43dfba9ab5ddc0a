"""The proof: that answering requests builds no gradient graph, changes nothing, and depends on the input alone.

It runs in the worker thread, through the function that answers requests. The callable is handed in, so that the proof
covers the engine's own path without importing it. `trial.py` runs the forwards; here they are judged, a rule each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from service.loader.comparison import Comparison
from service.loader.report import Figures, Finding, Report, RuleResult
from service.loader.trial import Trial

#: The largest difference that company may make to an answer, as a share of the largest output, by the dtype that a
#: forward computes in. TF32 multiplies with the ten bits of float16.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 3e-3}

#: If a model is not repeatable, company may change an answer by this many times what repetition changes.
NOISE_FACTOR = 10


def prove(
    run_batch: Callable[[tuple[Tensor, ...]], Any],
    module: nn.Module,
    examples: Sequence[Tensor],
    sizes: Sequence[int],
    waive: Mapping[str, str] | None = None,
    between: Callable[[], object] = lambda: None,
    odd: Callable[[Comparison], list[Finding]] = lambda comparison: [],
) -> Report:
    """Run a model through the function that answers requests, and judge it by eight rules, and its outputs.

    At batch 1 and at the largest size it takes four forwards each, at each size between them two.

    Args:
        run_batch: the function that answers requests, from an array for each input to outputs, `(N, ...)` each;
            called in this thread's mode.
        module: the module behind it.
        examples: for each input `(2 * largest size, ...)`, no two alike.
        sizes: batch sizes to try, rising, the first of them 1.
        waive: by rule, the reason why the model is served although it breaks the rule.
        between: called before each forward; what it raises ends the proof.
        odd: says what is odd about the outputs.

    Raises:
        Refusal: `run_batch` refuses an example.
    """
    began = time.perf_counter()
    comparison = Comparison(tolerance_of(module))
    trial = Trial(run_batch, module, examples, comparison, between)
    trial.run(sizes)
    reasons = waive or {}
    rules = []
    for name, judge in JUDGES.items():
        judgement = judge(trial, comparison)
        rules.append(RuleResult(name, judgement.passed, judgement.words, reasons.get(name, "")))
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
    return Report(rules, figures, made, comparison.inconclusive, findings=odd(comparison))


def tolerance_of(module: nn.Module) -> float:
    """Return the tolerance for the dtype that the module computes in: that of its first floating-point parameter."""
    floating = (p for p in chain(module.parameters(), module.buffers()) if p.is_floating_point())
    first = next(floating, torch.empty(0))
    if first.is_cuda and first.dtype is torch.float32 and torch.backends.cudnn.allow_tf32:
        return TOLERANCES[torch.float16]
    return TOLERANCES.get(first.dtype, TOLERANCES[torch.float32])


@dataclass(frozen=True)
class Judgement:
    passed: bool
    words: str


def held(words: str) -> Judgement:
    return Judgement(True, words)


def broken(words: str) -> Judgement:
    return Judgement(False, words)


def judge_eval(trial: Trial, comparison: Comparison) -> Judgement:
    before, after = trial.before.training, trial.after.training
    during = [name for watch in trial.watches for name in watch.training]
    if before:
        return broken(f"{before[0]} is in train mode ({len(before)} modules in all).")
    if after:
        return broken(f"forward put {after[0]} in train mode ({len(after)} modules in all).")
    if during:
        return broken(f"{during[0]} was called in train mode ({len(set(during))} modules in all).")
    return held("No module is in train mode, before, during or after forward.")


def judge_frozen(trial: Trial, comparison: Comparison) -> Judgement:
    before, after = trial.before.unfrozen, trial.after.unfrozen
    during = [name for watch in trial.watches for name in watch.unfrozen]
    if before:
        return broken(f"{before[0]} requires a gradient ({len(before)} parameters in all).")
    if after:
        return broken(f"forward unfroze {after[0]} ({len(after)} parameters in all).")
    if during:
        return broken(f"{during[0]} required a gradient during forward ({len(set(during))} tensors in all).")
    return held("No parameter requires a gradient, before, during or after forward.")


def judge_inference_mode(trial: Trial, comparison: Comparison) -> Judgement:
    off = [where for watch in trial.watches for where in watch.mode_off]
    off += ["after forward" for forward in trial.forwards if forward.left_mode]
    if off:
        return broken(f"Inference mode was off {off[0]} ({len(off)} times in all).")
    return held("Inference mode was on at every module call and every operator.")


def judge_no_graph(trial: Trial, comparison: Comparison) -> Judgement:
    """Check all three signs, and the counter: a custom autograd.Function can defeat one (pytorch#77967)."""
    for forward in trial.forwards:
        if forward.graph:
            return broken(forward.graph)
    if nodes := sum(watch.graph_nodes for watch in trial.watches):
        return broken(f"Forward built {nodes} autograd nodes.")
    return held("The output has no grad_fn, and autograd's counter did not move.")


def judge_nothing_saved(trial: Trial, comparison: Comparison) -> Judgement:
    tensors, size = (sum(getattr(watch, name) for watch in trial.watches) for name in ("saved_tensors", "saved_bytes"))
    if tensors:
        return broken(f"Forward saved {tensors} tensors ({size:,} bytes) for a backward pass.")
    return held("Nothing was saved for a backward pass.")


def judge_nothing_changed(trial: Trial, comparison: Comparison) -> Judgement:
    if changed := trial.changed():
        return broken(f"{changed[0]} by forward ({len(changed)} tensors in all).")
    return held(f"All {trial.counted} parameters and buffers have the bits that they had before.")


def judge_repeatable(trial: Trial, comparison: Comparison) -> Judgement:
    for once, again in trial.repeated():
        if once.digests != again.digests:
            apart = f"they differ by up to {comparison.noise:.1e} of the largest output"
            return broken(f"The same batch of {len(once.order)} gave different outputs; {apart}.")
    return held("The same input gives the same bits.")


def judge_batch_invariant(trial: Trial, comparison: Comparison) -> Judgement:
    for forward in trial.forwards:
        if forward.wrong_count is not None:
            return broken(f"Forward gave {forward.wrong_count} answers for {len(forward.order)} inputs.")
    difference, noise = comparison.difference, comparison.noise
    found = f"alone and in company an answer differs by up to {difference:.1e} of the largest output"
    allowed = max(comparison.tolerance, NOISE_FACTOR * noise)
    if difference > allowed:
        return broken(f"At {comparison.where}, {found}; {allowed:.0e} is allowed.")
    return held(comparison.inconclusive or f"{found[0].upper()}{found[1:]}; {allowed:.0e} is allowed.")


#: The rules in their order, by the names that reports, waivers and dashboards use, with the function that judges each.
JUDGES: dict[str, Callable[[Trial, Comparison], Judgement]] = {
    "eval": judge_eval,
    "frozen": judge_frozen,
    "inference-mode": judge_inference_mode,
    "no-graph": judge_no_graph,
    "nothing-saved": judge_nothing_saved,
    "nothing-changed": judge_nothing_changed,
    "repeatable": judge_repeatable,
    "batch-invariant": judge_batch_invariant,
}
