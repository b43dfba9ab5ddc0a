"""Results of a bench run, as printed in JSON: medians over the rounds, and whether they are conclusive."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from service.bench.measurement import Measurement, percentiles

#: The bare loop runs between all others. When it moved by more, the machine was busy with something else.
MOST_MOVED = 0.15


def moved(canary: list[list[float]]) -> float:
    """Return how far the bare loop's median moved from round to round, as a share."""
    rates = [statistics.median(rates) for rates in canary]
    return (max(rates) - min(rates)) / statistics.median(rates) if rates else 0.0


#: Servers of ours, by the names that they have in a run.
OURS = ("gradless", "bfloat16", "open-inference")


@dataclass
class Load:
    """One server under a number of closed-loop clients: medians over the rounds; percentiles over all of their answers.

    `kinds` counts the answers of each status, and each error of a connection. CPU time is by process.
    """

    clients: int
    rate: float
    latency_ms: dict[str, float]
    kinds: dict[str, int]
    stages_ms: dict[str, float]
    cpu_seconds_per_1000: dict[str, float]
    mean_batch: float | None
    generator_cores: float

    @classmethod
    def of(cls, clients: int, runs: list[Measurement]) -> Load:
        return cls(
            clients=clients,
            rate=statistics.median(run.tally.rate for run in runs),
            latency_ms=percentiles([latency for run in runs for latency in run.tally.latencies_ms]),
            kinds=_added([run.tally.kinds for run in runs]),
            stages_ms=_medians([run.stages_ms for run in runs]),
            cpu_seconds_per_1000=_medians([run.cpu_seconds_per_1000 for run in runs]),
            mean_batch=_median([run.mean_batch for run in runs]),
            generator_cores=statistics.median(run.generator_cores for run in runs),
        )


@dataclass
class Bare:
    """The bare loop at one batch size; `forward` is `eager, MEMORY_FORMAT` or `compiled`."""

    forward: str
    batch_size: int
    rate: float
    batch_ms: float


@dataclass
class Alone:
    """Forwards without a server, as they were measured when the model was compiled.

    Attributes:
        seconds: by candidate and batch size, of the best forward.
        flops: floating-point operations of one example, as torch counts them: a multiplication and an addition are two.
        peak_flops: a second, of a large float32 convolution in as many threads.
    """

    seconds: dict[str, dict[int, float]]
    flops: float
    peak_flops: float

    def rate(self, candidate: str) -> float:
        """Return examples/s at the best batch size."""
        return max(size / seconds for size, seconds in self.seconds[candidate].items())

    def share(self, candidate: str) -> float:
        """Return the share of the peak that a candidate reaches."""
        return self.rate(candidate) * self.flops / self.peak_flops


@dataclass
class Step:
    """One rate of an open loop; latencies from the moment that a request was meant to leave."""

    offered: float
    share: float
    answered: float
    latency_ms: dict[str, float]
    kinds: dict[str, int]
    refusal_ms: dict[str, float]
    late_ms: float


@dataclass
class OpenLoop:
    """Steps up to past the capacity; `knee` is the highest rate offered at which the queue does not grow."""

    capacity: float
    steps: list[Step]
    knee: float

    def at(self, share: float) -> Step | None:
        return next((step for step in self.steps if abs(step.share - share) < 1e-6), None)


@dataclass
class Model:
    """One model: the bare loop, and each server by its name and clients.

    `canary` has the bare loop's rates between the others, round by round; `over_bare_ms` is, turn by turn, by how much
    one client's median was above that of the bare loop before and after; `tail` is a long run of many clients.
    """

    name: str
    memory_format: str
    threads: int
    body_bytes: int
    bodies: str = ""
    canary: list[list[float]] = field(default_factory=list)
    bare: list[Bare] = field(default_factory=list)
    servers: dict[str, list[Load]] = field(default_factory=dict)
    over_bare_ms: list[float] = field(default_factory=list)
    alone: Alone | None = None
    open_loop: OpenLoop | None = None
    tail: Load | None = None
    pss_bytes: dict[str, int] = field(default_factory=dict)
    started_in: dict[str, float] = field(default_factory=dict)

    @property
    def moved(self) -> float:
        return moved(self.canary)

    @property
    def is_conclusive(self) -> bool:
        return self.moved <= MOST_MOVED

    @property
    def forwards(self) -> list[str]:
        """Return the forwards of the bare loop: the one that people write comes first, the server's last."""
        return list(dict.fromkeys(bare.forward for bare in self.bare))

    def bare_of(self, forward: str) -> list[Bare]:
        """Return the bare loop's results with a forward, by rising batch size."""
        return [bare for bare in self.bare if bare.forward == forward]

    @property
    def served_bare(self) -> list[Bare]:
        """Return the bare loop's results with the forward that the server runs."""
        return self.bare_of(self.forwards[-1])

    def best_bare(self, forward: str) -> Bare:
        return max(self.bare_of(forward), key=lambda bare: bare.rate)

    def load(self, server: str, clients: int) -> Load:
        return next(load for load in self.servers[server] if load.clients == clients)

    def best(self, server: str) -> Load:
        return max(self.servers[server], key=lambda load: load.rate)

    def ratios(self) -> dict[str, float]:
        """Return every ratio that is claimed, each from this run alone."""
        ours = self.best("gradless")
        told = {}
        if self.bare:
            for forward in self.forwards:
                told[f"served / bare loop at its best batch: {forward}"] = ours.rate / self.best_bare(forward).rate
            told["one client: ms over the bare loop's at batch 1, of what is served"] = statistics.median(
                self.over_bare_ms
            )
        if self.bare and "bfloat16" in self.servers:
            first = self.best_bare(self.forwards[0]).rate
            told[f"in bfloat16: served / bare loop at its best batch: {self.forwards[0]}"] = (
                self.best("bfloat16").rate / first
            )
        for peer in self.servers:
            if peer not in OURS:
                told[f"served / {peer}, each at its best"] = ours.rate / self.best(peer).rate
                told[f"one client: median / {peer}'s"] = self._one_ms("gradless") / self._one_ms(peer)
        if "open-inference" in self.servers:
            told |= self._open_inference_ratios()
        if "naive" in self.pss_bytes:
            told["memory (PSS of the tree) / naive app's"] = self.pss_bytes["gradless"] / self.pss_bytes["naive"]
        if "floor" in self.started_in:
            told["start / import, load and one forward"] = self.started_in["gradless"] / self.started_in["floor"]
        if self.bare and self.open_loop and (step := self.open_loop.at(0.8)):
            told["80 % of capacity, open loop: p99 / bare loop at batch 1"] = (
                step.latency_ms["p99"] / self.served_bare[0].batch_ms
            )
        return told

    def _open_inference_ratios(self) -> dict[str, float]:
        """Compare one server by two protocols, and two servers by one."""
        others = {"/predict": "gradless"} | ({"triton's": "triton"} if "triton" in self.servers else {})
        return {
            f"Open Inference Protocol / {words}, {clients_in_words(n)}": self.load("open-inference", n).rate
            / self.load(name, n).rate
            for words, name in others.items()
            for n in (1, 32)
        }

    def _one_ms(self, server: str) -> float:
        """Return the median of one client."""
        return self.load(server, 1).latency_ms["p50"]


@dataclass
class Results:
    """A whole run."""

    command: str
    date: str
    commit: str
    machine: dict[str, str]
    models: list[Model] = field(default_factory=list)

    @property
    def failures(self) -> int:
        """Count requests to our servers that were not answered with 200, open loops past capacity aside."""
        loads = [load for model in self.models for name in OURS for load in model.servers.get(name, [])]
        return sum(count for load in loads for kind, count in load.kinds.items() if kind != "200")


def clients_in_words(number: int) -> str:
    """Return `1 client`, or `32 clients`."""
    return "1 client" if number == 1 else f"{number} clients"


def _added(kinds: list[dict[str, int]]) -> dict[str, int]:
    return {kind: sum(each.get(kind, 0) for each in kinds) for kind in sorted({k for each in kinds for k in each})}


def _medians(each: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each name; a name that is missing counts as 0."""
    names = sorted({name for told in each for name in told})
    return {name: statistics.median(told.get(name, 0.0) for told in each) for name in names}


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
