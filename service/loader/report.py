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


class Precision(msgspec.Struct, frozen=True):
    """What a model in `dtype` answers beside itself in float32, on so many made-up pictures.

    Attributes:
        probability_difference: the largest between two probabilities.
        same_classes: on how many the most probable class is the same.
    """

    dtype: str
    inputs: int
    probability_difference: float
    same_classes: int


class Report(msgspec.Struct, frozen=True):
    """Every rule in order, and the figures.

    Attributes:
        inconclusive: why `batch-invariant` proves nothing here; empty where it does.
        made: when, UTC, ISO 8601.
        full: of a re-check at start, the figures of the full proof that it rests on.
        precision: of a model that does not compute in float32.
    """

    rules: list[RuleResult]
    figures: Figures
    made: str
    inconclusive: str = ""
    full: Figures | None = None
    precision: Precision | None = None

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


class Candidate(msgspec.Struct, frozen=True):
    """One way to run a model, and by batch size the seconds of its best forward."""

    name: str
    seconds: dict[int, float]


class Verdict(msgspec.Struct, frozen=True):
    """Whether a compiled package answers a model's requests, and why.

    Attributes:
        state: `compiled`; else why it is not: `off`, `pending`, `slower`, `differs`, `not-exportable`, `no-compiler`,
            `unsafe-cache` or `failed`.
        detail: the same in words.
        tuning: how the eager forward ran that the package was held against.
        compilers: who was asked for a package.
        candidates: everything that was measured.
        inputs: what the package was held against eager on, in words.
        difference: the largest, as a share of the largest output.
        probability_difference: the largest between two probabilities.
        equal_bits: whether an example's outputs have the same bits at every batch size.
        package: the file's name; empty where there is none.
        sha256: of the package.
        probe: SHA-256 over the outputs for a fixed input, made by the package when it was new.
        build_seconds: how long exporting, compiling and measuring took.
        made: when, UTC, ISO 8601.
    """

    state: str
    detail: str
    tuning: Tuning | None = None
    compilers: list[str] = []
    candidates: list[Candidate] = []
    inputs: str = ""
    difference: float = 0.0
    probability_difference: float = 0.0
    equal_bits: bool = False
    package: str = ""
    sha256: str = ""
    probe: str = ""
    build_seconds: float = 0.0
    made: str = ""

    def condemned(self, detail: str) -> Verdict:
        """The no of a package that has won and may not answer all the same; who made it is not asked again."""
        return Verdict("differs", detail, self.tuning, self.compilers)


PENDING = Verdict("pending", "it answers eager until its package is built")


class Record(msgspec.Struct, frozen=True):
    """What was found out about a model on a machine, for the next start: how it runs fastest, and its full proof."""

    tuning: Tuning
    report: Report
