"""The verdict on a model's compiled package. Every process reads it, so it imports no torch."""

from __future__ import annotations

import msgspec

from service.loader.tuning import Tuning


class Candidate(msgspec.Struct, frozen=True):
    """One way to run a model, and by batch size the seconds of its best forward."""

    name: str
    seconds: dict[int, float]


class Verdict(msgspec.Struct, frozen=True):
    """The decision whether a compiled package answers a model's requests, and why.

    Attributes:
        state: `compiled`, or why it is not: `off`, `pending`, `slower`, `differs`, `not-exportable`, `no-compiler`,
            `unsafe-cache` or `failed`.
        detail: the state in words.
        tuning: the eager forward that the package was compared with.
        compilers: the compilers that were asked for a package.
        candidates: everything that was measured.
        inputs: the inputs of that comparison, in words.
        difference: the largest, as a share of the largest output.
        probability_difference: the largest between two probabilities.
        equal_bits: whether an example's outputs have the same bits at every batch size.
        package: the file's name; empty if there is none.
        sha256: of the package.
        probe: SHA-256 over the outputs for a fixed input, made by the package when it was new.
        build_seconds: the duration of exporting, compiling and measuring.
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
        """Return the verdict on a package that won and must not answer after all; its compiler is not asked again."""
        return Verdict("differs", detail, self.tuning, self.compilers)


PENDING = Verdict("pending", "it answers eager until its package is built")
