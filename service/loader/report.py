"""The report of a proof: rules, findings and figures. Every process reads it, so it imports no torch."""

from __future__ import annotations

from typing import Literal

import msgspec

#: Rules that a card may waive, with a reason. The others say that no gradient graph is built, and cannot be waived.
WAIVABLE = ("repeatable", "batch-invariant")


class RuleResult(msgspec.Struct, frozen=True):
    """One rule: whether it held, and one sentence that names the module, parameter or output that broke it.

    `waived` is the card's reason for serving the model anyway; empty without a waiver.
    """

    rule: str
    passed: bool
    detail: str
    waived: str = ""


class Finding(msgspec.Struct, frozen=True):
    """An oddity in a model's outputs, card or weights that no rule is about.

    Attributes:
        name: `activation`, `constant`, `unit-norm`, `untrained` or `raw-pixels`.
        level: `refused`: the model is not served; `severe`: it is, and `gradless check` says no; or `warning`.
        detail: a sentence that says what was found and what would fix it.
    """

    name: str
    level: Literal["refused", "severe", "warning"]
    detail: str


class Figures(msgspec.Struct, frozen=True):
    """Counts and measurements of a proof.

    Attributes:
        graph_nodes: autograd nodes that forwards built.
        saved_tensors, saved_bytes: what forwards saved for a backward pass.
        largest_difference: between an example's outputs alone and in company, as a share of the largest output.
        contrast: the same measure between two different inputs; agreement proves nothing if they hardly differ.
        tolerance: the largest difference allowed.
        sizes: batch sizes tried.
        batch_seconds: by size, the shortest forward that ran as requests do.
        forwards: the number of forwards.
        seconds: the duration of the proof.
    """

    graph_nodes: int
    saved_tensors: int
    saved_bytes: int
    largest_difference: float
    contrast: float
    tolerance: float
    sizes: list[int]
    batch_seconds: dict[int, float]
    forwards: int
    seconds: float


class Precision(msgspec.Struct, frozen=True):
    """Comparison of a model in `dtype` with itself in float32, on made-up pictures.

    Attributes:
        probability_difference: the largest between two probabilities.
        inputs: the number of pictures.
        same_classes: the number of pictures with the same most probable class.
    """

    dtype: str
    inputs: int
    probability_difference: float
    same_classes: int


class Report(msgspec.Struct, frozen=True):
    """The result of every rule in order, and the figures.

    Attributes:
        inconclusive: why `batch-invariant` proves nothing here; empty if it proves something.
        made: when, UTC, ISO 8601.
        full: figures of the full proof that a re-check at start rests on.
        precision: comparison with float32, for a model of another dtype.
        findings: oddities of the model that no rule is about.
    """

    rules: list[RuleResult]
    figures: Figures
    made: str
    inconclusive: str = ""
    full: Figures | None = None
    precision: Precision | None = None
    findings: list[Finding] = []

    @property
    def passed(self) -> bool:
        """Return whether the model may be served: every rule held or is waived, and no finding refuses it."""
        return not self.refusal

    @property
    def severe(self) -> bool:
        """Return whether a finding is severe: the model may be served, but its answers are hardly meant."""
        return any(finding.level == "severe" for finding in self.findings)

    @property
    def is_inconclusive(self) -> bool:
        """Return whether to call the proof inconclusive; the finding that a model is constant says so, and more."""
        return bool(self.inconclusive) and not any(finding.name == "constant" for finding in self.findings)

    @property
    def broken(self) -> list[str]:
        """Return the rules that did not hold, waived or not."""
        return [rule.rule for rule in self.rules if not rule.passed]

    @property
    def waivers(self) -> dict[str, str]:
        """Return the reason for each rule that the card waives."""
        return {rule.rule: rule.waived for rule in self.rules if rule.waived}

    @property
    def refusal(self) -> str:
        """Say why the model is not served; empty if it may be."""
        broken = [f"{rule.rule}: {rule.detail}" for rule in self.rules if not (rule.passed or rule.waived)]
        return "; ".join(
            [*broken, *(f"{each.name}: {each.detail}" for each in self.findings if each.level == "refused")]
        )
