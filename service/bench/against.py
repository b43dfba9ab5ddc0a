"""`gradless bench --against REV`: compare the server of this tree with that of another commit, in turns, in one run."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import service
from service.bench.bare import CANARY_SECONDS, ask, bare_loop
from service.bench.bodies import Seen
from service.bench.choice import bench_models, folder_of_one, seen_by
from service.bench.machine import commit
from service.bench.measurement import Measurement, measure
from service.bench.results import MOST_MOVED, moved
from service.bench.servers import MeasuredServer, gradless
from service.bench.turns import settled
from service.bench.workload import WorkloadSpec, workload_spec
from service.errors import ConfigurationError
from service.settings import Settings

CLIENTS = (1, 8, 32)


@dataclass
class Pair:
    """One model under a number of clients: medians over the rounds for this tree, the other one, and their ratio."""

    model: str
    clients: int
    rate: float
    rate_there: float
    rate_ratio: float
    p50_ms: float
    p50_ms_there: float
    p50_ratio: float
    failures: int
    failures_there: int


def against(settings: Settings, models: list[str], rev: str, seconds: float, rounds: int, as_json: bool) -> int:
    """Compare, and print; return 1 if a request failed, or if the machine moved too much to conclude anything.

    Raises:
        ConfigurationError: no such model or commit, or this is not a git checkout.
    """
    folders = bench_models(settings, models, own=("resnet18", "trivial"))  # which every commit serves
    pairs: list[Pair] = []
    forwards: dict[str, list[str]] = {}
    canaries: dict[str, list[list[float]]] = {}
    with _worktree(rev) as there, Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(folders) * rounds * len(CLIENTS))
        for name, folder in folders.items():
            with contextlib.ExitStack() as running:
                one = running.enter_context(folder_of_one(name, folder))
                servers, answers = [], []
                for tree in (None, there):  # each compiles and measures its package while the other is suspended
                    server = running.enter_context(_server(settings, one, name, tree))
                    answers.append(settled(server, name))
                    server.suspend()
                    servers.append(server)
                seen = seen_by(one, name)
                specs = [workload_spec(settings, one, answer) for answer in answers]
                forwards[name] = [_forward(spec) for spec in specs]
                spec = msgspec.structs.replace(specs[0], package="")
                bare, sizes = running.enter_context(bare_loop(spec))
                runs: dict[int, list[tuple[Measurement, Measurement]]] = {clients: [] for clients in CLIENTS}
                canaries[name] = []
                for turn in range(rounds):
                    told = []
                    for clients, done in runs.items():
                        progress.update(task, description=f"{name}, round {turn + 1}: {clients} clients")
                        both = [_measured(server, name, seen, clients, seconds) for server in servers]
                        done.append((both[0], both[1]))
                        told.append(ask(bare, spec.forwards[-1], sizes[-1], CANARY_SECONDS)[0])
                        progress.advance(task)
                    canaries[name].append(told)
                pairs += [_pair(name, clients, done) for clients, done in runs.items()]
    _print(pairs, forwards, {name: moved(rates) for name, rates in canaries.items()}, rev, as_json)
    failed = any(pair.failures or pair.failures_there for pair in pairs)
    return 1 if failed or any(moved(rates) > MOST_MOVED for rates in canaries.values()) else 0


@contextlib.contextmanager
def _worktree(rev: str) -> Iterator[Path]:
    here = Path(service.__file__).parents[1]
    with tempfile.TemporaryDirectory(prefix="gradless-bench-") as folder:
        tree = Path(folder, "tree")
        done = _git(here, "worktree", "add", "--detach", str(tree), rev)
        if done.returncode:
            words = done.stderr.strip().splitlines()[-1]
            raise ConfigurationError.at("--against", rev, words, "name a commit of the git checkout that runs this")
        try:
            yield tree
        finally:
            _git(here, "worktree", "remove", "--force", str(tree))


def _git(here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(here), *words], capture_output=True, encoding="utf-8", errors="replace")  # noqa: S607


@contextlib.contextmanager
def _server(settings: Settings, models: Path, name: str, tree: Path | None) -> Iterator[MeasuredServer]:
    """Start a server of this tree or another, each with its own cache, since two commits may have one version."""
    with tempfile.TemporaryDirectory(prefix="gradless-bench-") as cache:
        flags = ["--models", models, "--device", settings.device, "--threads", settings.threads, "--cache", cache]
        with gradless(flags, name, seen_by(models, name), tree) as server:
            yield server


def _forward(spec: WorkloadSpec) -> str:
    """Say what a server answers with: the kind of its package, or eager, and its threads."""
    what = f"{Path(spec.package).suffix} package" if spec.package else spec.forwards[-1]
    return f"{what}, {spec.threads} threads"


def _measured(server: MeasuredServer, name: str, seen: Seen, clients: int, seconds: float) -> Measurement:
    with server.awake():
        return measure(server, server.traffic(seen, seconds, clients=clients), name)


def _pair(model: str, clients: int, done: list[tuple[Measurement, Measurement]]) -> Pair:
    return Pair(
        model=model,
        clients=clients,
        rate=statistics.median([ours.tally.rate for ours, _ in done]),
        rate_there=statistics.median([theirs.tally.rate for _, theirs in done]),
        rate_ratio=statistics.median([ours.tally.rate / theirs.tally.rate for ours, theirs in done]),
        p50_ms=statistics.median([ours.latency_ms["p50"] for ours, _ in done]),
        p50_ms_there=statistics.median([theirs.latency_ms["p50"] for _, theirs in done]),
        p50_ratio=statistics.median([ours.latency_ms["p50"] / theirs.latency_ms["p50"] for ours, theirs in done]),
        failures=sum(ours.tally.failures for ours, _ in done),
        failures_there=sum(theirs.tally.failures for _, theirs in done),
    )


def _print(
    pairs: list[Pair], forwards: dict[str, list[str]], moved_by: dict[str, float], rev: str, as_json: bool
) -> None:
    if as_json:
        told = {"here": commit(), "there": rev, "pairs": [asdict(pair) for pair in pairs]}
        print(json.dumps(told | {"forwards": forwards, "bare_loop_moved": moved_by}, indent=2))
        return
    table = Table(title=f"{commit()} beside {rev}, in turns; medians", title_justify="left")
    for column, heading in enumerate(("model", "clients", "examples/s", rev, "ratio", "p50, ms", rev, "ratio")):
        table.add_column(heading, justify="right" if column else "left")
    for pair in pairs:
        rates = (f"{pair.rate:.1f}", f"{pair.rate_there:.1f}", f"{pair.rate_ratio:.2f}")
        times = (f"{pair.p50_ms:.1f}", f"{pair.p50_ms_there:.1f}", f"{pair.p50_ratio:.2f}")
        table.add_row(pair.model, str(pair.clients), *rates, *times)
    Console(width=120).print(table)
    for name, (here, there) in forwards.items():
        print(f"{name}: {here}; {rev}: {there}.")
    for name, share in moved_by.items():
        verdict = "no conclusion" if share > MOST_MOVED else "quiet enough"
        print(f"{name}: the bare loop moved by {share:.0%} between the rounds: {verdict}.")
