"""Measurement of one model: all servers take turns, so that noise hits all alike."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from service.bench.bare import CANARY_SECONDS, ask, bare_loop
from service.bench.choice import can_be_told_bfloat16, folder_of_one, seen_by
from service.bench.floor import floor_seconds
from service.bench.machine import computes_bfloat16, peak_flops
from service.bench.measurement import Measurement, generate, measure, percentiles
from service.bench.results import Alone, Bare, Load, Model, OpenLoop, Step
from service.bench.servers import MeasuredServer, by_open_inference, fetch, gradless, peer, running_server
from service.bench.workload import WorkloadSpec, flops, workload_spec
from service.errors import ConfigurationError
from service.settings import Settings

CLIENTS = (1, 8, 32, 64)
PEERS_CLIENTS = (1, 32)
#: Shares of the capacity, which is the rate of many closed-loop clients.
SHARES = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.2)
#: The queue grows if the median answer takes this many times as long as at the lightest load.
KNEE = 3.0
#: Bytes of a body for the trivial model, and the length of its long run, in measurements.
TRIVIAL_BYTES, TAIL = 50_000, 15
STARTS = 3
#: The bare loop's part of a measurement, at each batch size.
BARE_SHARE = 0.2
#: One client's turns with the bare loop, in each round.
TURNS_OF_ONE = 4
#: Longest wait for a server that compiles behind serving.
COMPILE_SECONDS = 600.0


@dataclass(frozen=True)
class Plan:
    """The servers to measure, and the length of each measurement."""

    settings: Settings
    seconds: float
    rounds: int
    peers: tuple[str, ...]
    url: str = ""


class Bench:
    """One model: servers that each do the same job, of which one at a time is awake."""

    def __init__(self, plan: Plan, name: str, folder: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._name = name
        self._folder = folder
        self._say = say
        self._trivial = name == "trivial"
        self._is_small = name in ("trivial", "linear")
        self._body_bytes = TRIVIAL_BYTES if self._trivial else 0

    def run(self, first: bool) -> Model:
        """Measure everything about the model; start, memory and open loop of the first one only."""
        settings = self._plan.settings
        with contextlib.ExitStack() as running:
            models = running.enter_context(folder_of_one(self._name, self._folder))
            self._seen = seen_by(models, self._name)
            self._flags = ["--device", settings.device, "--threads", settings.threads]
            self._flags += ["--cache", settings.cache, "--optimize", settings.optimize, "--models"]
            self._say("starting")
            ours = self._start_ours(running, models)
            self._say("compiling")
            shown = settled(ours, self._name)
            self._model = Model(
                self._name, shown["memory_format"], shown["threads"], self._body_bytes, bodies=self._seen.words
            )
            spec = workload_spec(settings, models, shown)
            ours.suspend()
            self._model.alone = alone(spec, shown)
            others = self._start_in_bfloat16(running, spec)
            if not self._plan.url and (self._seen.side or self._seen.is_one_array):
                others.append(by_open_inference(ours, self._name))
            bare, sizes = running.enter_context(bare_loop(spec))
            peers = [self._start_peer(running, name, spec) for name in self._plan.peers if self._suits(name)]
            self._rounds(ours, others + peers, bare, sizes, spec.forwards)
            if self._trivial:
                self._say("the tail of 32 clients")
                self._model.tail = Load.of(32, [self._closed(ours, 32, TAIL * self._plan.seconds)])
            elif first:
                self._weigh([ours, *peers])
                self._open_loop(ours)
                if not self._plan.url:
                    self._starts(spec)
        return self._model

    def _start_ours(self, running: contextlib.ExitStack, models: Path) -> MeasuredServer:
        if self._plan.url:
            return running_server(self._plan.url, self._name)
        return running.enter_context(gradless([*self._flags, models], self._name, self._seen))

    def _start_in_bfloat16(self, running: contextlib.ExitStack, spec: WorkloadSpec) -> list[MeasuredServer]:
        """Start a server of the model in bfloat16, if the hardware computes in it."""
        device = torch.device(spec.device)
        wanted = self._seen.side and not (self._plan.url or self._trivial) and computes_bfloat16(device)
        if not wanted or not can_be_told_bfloat16(self._folder):
            return []
        self._say("compiling in bfloat16")
        models = running.enter_context(folder_of_one(self._name, self._folder, "bfloat16"))
        try:
            server = running.enter_context(gradless([*self._flags, models], self._name, self._seen))
        except ConfigurationError:  # it does not compute in it, or fails the proof there
            return []
        server.name = "bfloat16"
        settled(server, self._name)
        server.suspend()
        return [server]

    def _suits(self, peer: str) -> bool:
        """Tell whether a peer is asked: Triton's binaries bring nothing that decodes pictures."""
        return peer != "triton" or self._seen.is_one_array

    def _start_peer(self, running: contextlib.ExitStack, name: str, spec: WorkloadSpec) -> MeasuredServer:
        self._say(f"starting {name}")
        server = running.enter_context(peer(name, spec, self._seen))
        server.suspend()
        return server

    def _rounds(
        self, ours: MeasuredServer, peers: list[MeasuredServer], bare: Any, sizes: list[int], forwards: list[str]
    ) -> None:
        clients = (1, 32) if self._is_small else CLIENTS
        asked = [(ours, n) for n in clients] + [(p, n) for p in peers for n in PEERS_CLIENTS if n in clients]
        runs: dict[tuple[str, int], list[Measurement]] = {}
        rates: dict[tuple[str, int], list[tuple[float, float]]] = {(f, size): [] for f in forwards for size in sizes}
        for turn in range(self._plan.rounds):
            canaries = []
            for forward, size in rates:
                self._say(f"round {turn + 1} of {self._plan.rounds}: bare loop, {forward}, batch {size}")
                rates[forward, size].append(ask(bare, forward, size, self._plan.seconds * BARE_SHARE))
            for server, n in asked:
                self._say(f"round {turn + 1} of {self._plan.rounds}: {server.name}, {n} clients")
                done = runs.setdefault((server.name, n), [])
                if (server, n) == (ours, 1):
                    done += self._one_client(ours, bare, forwards[-1])
                else:
                    done.append(self._closed(server, n, self._plan.seconds))
                canaries.append(ask(bare, forwards[-1], sizes[-1], CANARY_SECONDS)[0])
            self._model.canary.append(canaries)
        for (forward, size), told in rates.items():
            rate, batch_ms = (statistics.median(values) for values in zip(*told, strict=True))
            self._model.bare.append(Bare(forward, size, rate, batch_ms))
        for (name, n), done in runs.items():
            self._model.servers.setdefault(name, []).append(Load.of(n, done))

    def _one_client(self, ours: MeasuredServer, bare: Any, forward: str) -> list[Measurement]:
        """Measure one client and the bare loop at batch 1 in turns, so that the machine moves both alike."""
        seconds = self._plan.seconds * BARE_SHARE
        runs, alone_ms = [], [ask(bare, forward, 1, seconds)[1]]
        for _ in range(TURNS_OF_ONE):
            runs.append(self._closed(ours, 1, self._plan.seconds))
            alone_ms.append(ask(bare, forward, 1, seconds)[1])
            self._model.over_bare_ms.append(runs[-1].latency_ms["p50"] - statistics.mean(alone_ms[-2:]))
        return runs

    def _closed(self, server: MeasuredServer, clients: int, seconds: float) -> Measurement:
        traffic = server.traffic(self._seen, seconds, clients=clients, body_bytes=self._body_bytes)
        with server.awake():
            return measure(server, traffic, self._name)

    def _weigh(self, servers: list[MeasuredServer]) -> None:
        for server in servers:
            if server.group is not None:
                self._model.pss_bytes[server.name] = server.pss()

    def _open_loop(self, ours: MeasuredServer) -> None:
        """Measure the capacity again, since the machine may have moved, then steps up to past it."""
        seconds = max(6.0, 2 * self._plan.seconds)
        with ours.awake():
            self._say("capacity")
            capacity = generate(ours.traffic(self._seen, seconds, clients=32)).rate
            steps = []
            for share in SHARES:
                self._say(f"open loop at {share:.0%} of {capacity:.0f}/s")
                tally = generate(ours.traffic(self._seen, seconds, rate=share * capacity))
                steps.append(
                    Step(
                        offered=share * capacity,
                        share=share,
                        answered=tally.rate,
                        latency_ms=percentiles(tally.latencies_ms),
                        kinds=dict(tally.kinds),
                        refusal_ms=percentiles(tally.refusals_ms),
                        late_ms=tally.late_ms,
                    )
                )
        self._model.open_loop = OpenLoop(capacity, steps, knee(steps))

    def _starts(self, spec: WorkloadSpec) -> None:
        """Time the start up to the first answer, in turns with the floor; the version is proven already."""
        told: dict[str, list[float]] = {"gradless": [], "floor": []}
        for turn in range(STARTS):
            self._say(f"start {turn + 1} of {STARTS}")
            told["floor"].append(floor_seconds(spec))
            with gradless([*self._flags, spec.models], self._name, self._seen) as server:
                told["gradless"].append(server.started_in)
        self._model.started_in = {name: statistics.median(seconds) for name, seconds in told.items()}


def alone(spec: WorkloadSpec, shown: dict[str, Any]) -> Alone | None:
    """Return the forwards that a server's verdict compared, with the machine's peak; None without a verdict."""
    candidates = (shown.get("optimization") or {}).get("candidates")
    if not candidates:
        return None
    seconds = {one["name"]: {int(size): spent for size, spent in one["seconds"].items()} for one in candidates}
    return Alone(seconds, flops(spec), peak_flops(torch.device(spec.device), spec.threads))


def settled(server: MeasuredServer, model: str) -> dict[str, Any]:
    """Wait until a server will not change how it runs a model by itself; return what it shows of the model."""
    end = time.monotonic() + COMPILE_SECONDS
    while True:
        shown: dict[str, Any] = msgspec.json.decode(fetch(f"{server.url}/models/{model}"))
        verdict = shown.get("optimization") or {}
        if verdict.get("state") != "pending" or time.monotonic() > end:
            return shown
        time.sleep(0.2)


def knee(steps: list[Step]) -> float:
    """Return the highest rate at which every request is answered and the queue does not grow."""
    lightest = steps[0].latency_ms["p50"]
    good = [s.offered for s in steps if set(s.kinds) <= {"200"} and s.latency_ms["p50"] <= KNEE * lightest]
    return max(good, default=0.0)
