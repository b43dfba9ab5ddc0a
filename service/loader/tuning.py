"""The tuning of a model on a device, and the timings behind it. Every process reads it, so it imports no torch."""

from __future__ import annotations

import msgspec


class Tuning(msgspec.Struct, frozen=True):
    """The way a model runs on its device, as measured there.

    `memory_format` is torch's name of it; `threads` are the intra-op threads of its forward; `cap` is the largest
    batch, in examples, where `gradless bench --tune` has looked for it, else 0.
    """

    memory_format: str
    threads: int
    cap: int = 0


class Timing(msgspec.Struct, frozen=True):
    """The shortest of several forwards of `batch_size` examples, in seconds."""

    memory_format: str
    threads: int
    batch_size: int
    seconds: float


class Tuned(msgspec.Struct, frozen=True):
    """The measurements of `gradless bench --tune` on a machine, and its choice.

    Attributes:
        tuning: the choice, used from the next start on.
        timings: everything that was tried.
        latency_target_ms: the most that a forward at the cap may take; 0 without a target.
        made: when, UTC, ISO 8601.
    """

    tuning: Tuning
    timings: list[Timing]
    latency_target_ms: float
    made: str
