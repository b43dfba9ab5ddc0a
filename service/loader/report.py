"""What a proof says, rule by rule, and what else is kept of a model. Read by every process, so it imports no torch."""

from __future__ import annotations

import msgspec

#: The rules in their order, by the names that reports, waivers and dashboards use.
RULES = (
    "eval",
    "frozen",
    "inference-mode",
    "no-graph",
    "nothing-saved",
    "nothing-changed",
    "repeatable",
    "batch-invariant",
)
#: What a card may waive, with a reason. The others say that no gradient graph is built, and are not for sale.
WAIVABLE = ("repeatable", "batch-invariant")


class RuleResult(msgspec.Struct, frozen=True):
    """One rule: whether it held, and one sentence that names the module, parameter or output that broke it.

    `waived` is the card's reason for serving all the same; empty where there is no waiver.
    """

    rule: str
    passed: bool
    detail: str
    waived: str = ""


class Figures(msgspec.Struct, frozen=True):
    """What was counted and measured.

    Attributes:
        graph_nodes: autograd nodes that forwards built.
        saved_tensors, saved_bytes: what forwards saved for a backward pass.
        largest_difference: of an example's outputs alone and in company, as a share of the largest output.
        contrast: the same measure between two different inputs; agreement of what hardly differs proves nothing.
        tolerance: the largest difference allowed.
        sizes: batch sizes tried.
        batch_seconds: by size, the shortest forward that ran as requests do.
        forwards: how many forwards that took.
        seconds: how long it all took.
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


class Report(msgspec.Struct, frozen=True):
    """Every rule in order, and the figures.

    Attributes:
        inconclusive: why `batch-invariant` proves nothing here; empty where it does.
        made: when, UTC, ISO 8601.
        full: of a re-check at start, the figures of the full proof that it rests on.
    """

    rules: list[RuleResult]
    figures: Figures
    made: str
    inconclusive: str = ""
    full: Figures | None = None

    @property
    def passed(self) -> bool:
        """Whether the model may be served: every rule held or is waived."""
        return all(rule.passed or rule.waived for rule in self.rules)

    @property
    def broken(self) -> list[str]:
        """The rules that did not hold, waived or not."""
        return [rule.rule for rule in self.rules if not rule.passed]

    @property
    def waivers(self) -> dict[str, str]:
        """The reason for each rule that the card waives."""
        return {rule.rule: rule.waived for rule in self.rules if rule.waived}

    @property
    def refusal(self) -> str:
        """Why the model is not served, in words."""
        return "; ".join(f"{rule.rule}: {rule.detail}" for rule in self.rules if not (rule.passed or rule.waived))


class Tuning(msgspec.Struct, frozen=True):
    """How a model runs on its device, as measured there.

    `memory_format` is torch's name of it; `threads` are the intra-op threads of its forward; `cap` is the largest
    batch, in examples, where `gradless bench --tune` has looked for it, else 0.
    """

    memory_format: str
    threads: int
    cap: int = 0


class Timing(msgspec.Struct, frozen=True):
    """Seconds of a forward, the best of several, of so many examples."""

    memory_format: str
    threads: int
    batch_size: int
    seconds: float


class Tuned(msgspec.Struct, frozen=True):
    """What `gradless bench --tune` measured on a machine, and chose.

    Attributes:
        tuning: what is used from the next start on.
        timings: everything that was tried.
        latency_target_ms: what a forward at the cap was to take at most; 0 without a target.
        made: when, UTC, ISO 8601.
    """

    tuning: Tuning
    timings: list[Timing]
    latency_target_ms: float
    made: str


class Record(msgspec.Struct, frozen=True):
    """What was found out about a model on a machine, for the next start: how it runs fastest, and its full proof."""

    tuning: Tuning
    report: Report
