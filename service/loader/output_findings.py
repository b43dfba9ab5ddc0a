"""Findings about a model's last layer, from the outputs of its proof: probabilities already, unit vectors, constants.

The eight rules say that answers are the model's own. This file judges whether they are read as the model means them: a
softmax over probabilities, or over a sigmoid's, gives other numbers, which look just as good.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from service.loader.comparison import Comparison
from service.loader.last_operator import End
from service.loader.report import Finding

#: Rows of probabilities sum to 1, and unit vectors have the length 1, this closely, or within the proof's tolerance.
CLOSE = 1e-4
#: Outputs that differ by no more than this share of the largest one, twice the spacing of float32, are the same.
CONSTANT = 2.5e-7

_PROBABILITIES = 'they are probabilities already; set activation = "none", to use them as they are'


def judge_outputs(
    rows: Tensor,
    contrast: float,
    tolerance: float,
    activation: str,
    allow_constant: bool,
    end: End = "other",
) -> list[Finding]:
    """Say what is odd about the outputs of a classifier.

    Args:
        rows: `(N, classes) float64`, outputs of N different inputs.
        contrast: the largest difference between two rows, as a share of the largest output.
        tolerance: the proof's.
        activation: the card's: what makes probabilities of outputs.
        allow_constant: whether the card lets a model give every input the same output.
        end: the kind of operator that they come from. Logits of a few classes are all between 0 and 1 by chance now
            and then; those of a linear layer are no probabilities.
    """
    rows = rows[rows.isfinite().all(1)]
    if not len(rows):
        return []
    close = max(CLOSE, tolerance)
    constant = len(rows) > 1 and contrast <= CONSTANT
    found = list(_constant(allow_constant)) if constant else []
    found += _activation(rows, close, activation, constant, end)
    norms = rows.norm(dim=1)
    if not constant and rows.shape[1] > 1 and not found and bool(((norms - 1).abs() <= close).all()):
        words = "Every output is a unit vector, as an embedding is; probabilities of its components mean nothing."
        found.append(Finding("unit-norm", "warning", words))
    return found


def judge_constant(comparison: Comparison, allowed: bool) -> list[Finding]:
    """Say of any other model whether its answers depend on the input."""
    is_constant = comparison.examples > 1 and comparison.contrast <= CONSTANT
    return list(_constant(allowed)) if is_constant else []


def _constant(allowed: bool) -> Iterator[Finding]:
    words = "The answer does not depend on the input: every input that was tried gave the same one"
    if allowed:
        yield Finding("constant", "warning", f"{words}; the card allows it.")
    else:
        fix = "Check that the trained weights were saved, or set allow_constant = true"
        yield Finding("constant", "severe", f"{words}. {fix}.")


def _activation(rows: Tensor, close: float, activation: str, constant: bool, end: End) -> Iterator[Finding]:
    low, high = float(rows.min()), float(rows.max())
    within = low >= 0 and high <= 1 + close
    sums_to_one = bool(((rows.sum(1) - 1).abs() <= close).all())
    if activation == "none":
        if low < -close or high > 1 + close:
            words = f"Outputs range from {low:.3g} to {high:.3g}, so they are not probabilities"
            yield _refused(
                f'{words}, as activation = "none" says; set "softmax", or "sigmoid" for several labels at once'
            )
    elif within and sums_to_one and (rows.shape[1] > 1 or not constant):
        yield _refused(f"Outputs are all at least 0 and sum to 1: {_PROBABILITIES}")
    elif within and (constant or end == "linear"):
        return
    elif within and (end == "pooled" or (low == 0 and high < 1)):  # a ReLU gives zeros, where a sigmoid does not
        words = f"Outputs range from {low:.3g} to {high:.3g}"
        yield Finding("activation", "warning", f'{words}; if they are probabilities, set activation = "none".')
    elif within:
        yield _refused(f"Outputs are from 0 to 1 and do not sum to 1: {_PROBABILITIES}")
    elif activation == "sigmoid" and rows.shape[1] > 1 and _are_log_probabilities(rows, close):
        yield _refused('Outputs are the logarithms of probabilities that sum to 1; set activation = "softmax"')


def _are_log_probabilities(rows: Tensor, close: float) -> bool:
    return bool((torch.logsumexp(rows, 1).abs() <= close).all())


def _refused(words: str) -> Finding:
    return Finding("activation", "refused", f"{words}.")
