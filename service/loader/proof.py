"""The self-check: it runs in the worker thread, through the function that answers requests.

The callable is handed in, so that the proof covers the engine's own path without importing it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class RuleResult:
    """One rule: whether it held, and one sentence that names the module, parameter or output that broke it."""

    rule: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Report:
    """Every rule, in order, and how long the check took."""

    rules: list[RuleResult]
    seconds: float

    @property
    def passed(self) -> bool:
        return all(rule.passed for rule in self.rules)


def prove(run_batch: Callable[[Tensor], Tensor], module: nn.Module, example: Tensor) -> Report:
    """Whether answering a request leaves the model as it is and builds no gradient graph.

    Args:
        run_batch: what answers requests, `(N, 3, H, W) uint8` to logits `(N, classes)`; called in this thread's mode.
        module: the module behind it.
        example: a batch that `run_batch` takes.

    Raises:
        Refusal: `run_batch` refuses the example.
    """
    began = time.perf_counter()
    before = _modes(module)
    node = torch._C._autograd._get_sequence_nr()
    output = run_batch(example)
    nodes = torch._C._autograd._get_sequence_nr() - node
    after = _modes(module)
    rules = [
        _eval_rule(before.training, after.training),
        _frozen_rule(before.unfrozen, after.unfrozen),
        _no_graph_rule(output, nodes, [*module.parameters(), *module.buffers(), example]),
    ]
    return Report(rules, time.perf_counter() - began)


@dataclass(frozen=True)
class _Modes:
    training: list[str]
    unfrozen: list[str]


def _modes(module: nn.Module) -> _Modes:
    """The names of what is not as serving needs it."""
    return _Modes(
        [name or "the model itself" for name, part in module.named_modules() if part.training],
        [name for name, parameter in module.named_parameters() if parameter.requires_grad],
    )


def _eval_rule(before: list[str], after: list[str]) -> RuleResult:
    if before:
        return RuleResult("eval", False, f"{before[0]} is in train mode ({len(before)} modules in all).")
    if after:
        return RuleResult("eval", False, f"forward put {after[0]} in train mode ({len(after)} modules in all).")
    return RuleResult("eval", True, "No module is in train mode, before or after forward.")


def _frozen_rule(before: list[str], after: list[str]) -> RuleResult:
    if before:
        return RuleResult("frozen", False, f"{before[0]} requires a gradient ({len(before)} parameters in all).")
    if after:
        return RuleResult("frozen", False, f"forward unfroze {after[0]} ({len(after)} parameters in all).")
    return RuleResult("frozen", True, "No parameter requires a gradient, before or after forward.")


def _no_graph_rule(output: Tensor, nodes: int, known: list[Tensor]) -> RuleResult:
    """All three signs are looked at, and the counter: a custom autograd.Function can defeat one (pytorch#77967)."""

    def failed(words: str) -> RuleResult:
        return RuleResult("no-graph", False, words)

    if output.grad_fn is not None:
        return failed(f"The output has a grad_fn ({type(output.grad_fn).__name__}).")
    if output.requires_grad:
        return failed("The output requires a gradient.")
    shared = {tensor.untyped_storage().data_ptr() for tensor in known}
    if not output.is_inference() and output.untyped_storage().data_ptr() not in shared:
        return failed("The output was not made under inference_mode.")
    if nodes:
        return failed(f"Forward built {nodes} autograd nodes.")
    return RuleResult("no-graph", True, "The output has no grad_fn, and autograd's counter did not move.")
