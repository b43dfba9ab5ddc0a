"""`gradless bench`: the bare loop and the server take turns in one run, so that noise hits both alike."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from service.bench.bare import run_bare_loop
from service.errors import ConfigurationError
from service.loader.repository import ModelFolder, choose_default, find_models
from service.settings import Settings

START_SECONDS = 120.0


@dataclass
class Comparison:
    """One model: medians over the rounds. Rates are pictures/s, times milliseconds.

    `latency_ms` has the percentiles of all rounds of the many clients together.
    """

    model: str
    memory_format: str
    batch_size: int
    clients: int
    bare_rate: float
    served_rate: float
    ratio: float
    latency_ms: dict[str, float]
    bare_one_ms: float
    served_one_ms: float
    one_client_cost_ms: float
    failures: int


def run_bench(settings: Settings, models: list[str], clients: int, seconds: float, rounds: int, as_json: bool) -> int:
    """Compare for each model, and print a table or JSON; returns how many requests failed."""
    folders = find_models(settings.models)
    names = models or [choose_default(folders, settings.default_model)]
    if missing := [name for name in names if name not in folders]:
        raise ConfigurationError([f"bench: there is no model {missing[0]!r}; there are {', '.join(sorted(folders))}"])
    with running_server(settings) as url, Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=len(names) * rounds)
        results = []
        for name in names:
            shown = _model(url, name)
            with bare_loop(folders[name], shown["memory_format"], settings) as bare:
                turns = []
                for _ in range(rounds):
                    turns.append(_round(bare, url, shown, clients, seconds))
                    progress.advance(task)
            results.append(_compare(shown, clients, turns))
    if as_json:
        print(json.dumps({"models": [asdict(result) for result in results]}, indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(_table(results))
    failures = sum(result.failures for result in results)
    if failures:
        print(f"{failures} requests failed", file=sys.stderr)
    return failures


@dataclass
class Turn:
    bare_rate: float
    served_rate: float
    latencies: list[float]
    bare_one_ms: float
    served_one_ms: float
    failures: int


def _round(bare: Any, url: str, shown: dict[str, Any], clients: int, seconds: float) -> Turn:
    bare.send((shown["batch_sizes"][-1], seconds))
    bare_rate, _ = bare.recv()
    many = load(url, shown, clients, seconds)
    bare.send((1, seconds / 3))
    _, bare_one_ms = bare.recv()
    one = load(url, shown, 1, seconds / 3)
    return Turn(
        bare_rate,
        len(many["latencies"]) / many["seconds"],
        many["latencies"],
        bare_one_ms,
        statistics.median(one["latencies"]),
        many["failures"] + one["failures"],
    )


def _compare(shown: dict[str, Any], clients: int, turns: list[Turn]) -> Comparison:
    return Comparison(
        model=shown["name"],
        memory_format=shown["memory_format"],
        batch_size=shown["batch_sizes"][-1],
        clients=clients,
        bare_rate=statistics.median(turn.bare_rate for turn in turns),
        served_rate=statistics.median(turn.served_rate for turn in turns),
        ratio=statistics.median(turn.served_rate / turn.bare_rate for turn in turns),
        latency_ms=percentiles([latency for turn in turns for latency in turn.latencies]),
        bare_one_ms=statistics.median(turn.bare_one_ms for turn in turns),
        served_one_ms=statistics.median(turn.served_one_ms for turn in turns),
        one_client_cost_ms=statistics.median(turn.served_one_ms - turn.bare_one_ms for turn in turns),
        failures=sum(turn.failures for turn in turns),
    )


def percentiles(values: list[float]) -> dict[str, float]:
    """By nearest rank: the smallest value that so many per cent of all do not exceed."""
    ordered = sorted(values)
    ranks = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
    return {name: ordered[max(0, math.ceil(rank / 100 * len(ordered)) - 1)] for name, rank in ranks.items()}


def _table(results: list[Comparison]) -> Table:
    first = results[0]
    table = Table(
        title=f"Gradless beside the bare loop, in one run; pictures/s, milliseconds, {first.clients} clients",
        title_justify="left",
        caption="one client: median; bare: decode and forward at batch 1; cost: their difference",
        caption_justify="left",
    )
    for heading in ("model", "layout", "bare loop", "served", "ratio", "p50", "p99.9", "one client", "bare", "cost"):
        table.add_column(heading, justify="left" if heading in ("model", "layout") else "right")
    for r in results:
        table.add_row(
            r.model,
            r.memory_format.removesuffix("_format"),
            f"{r.bare_rate:.1f} (batch {r.batch_size})",
            f"{r.served_rate:.1f}",
            f"{r.ratio:.2f}",
            f"{r.latency_ms['p50']:.1f}",
            f"{r.latency_ms['p99.9']:.1f}",
            f"{r.served_one_ms:.1f}",
            f"{r.bare_one_ms:.1f}",
            f"{r.one_client_cost_ms:+.1f}",
        )
    return table


@contextmanager
def bare_loop(folder: ModelFolder, memory_format: str, settings: Settings) -> Iterator[Any]:
    """The bare loop in a process of its own, waiting for orders."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=run_bare_loop, args=(theirs, folder, memory_format, settings), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
        ours.send(None)
        process.join(10)
    finally:
        process.kill()


@contextmanager
def running_server(settings: Settings) -> Iterator[str]:
    """The shipped server as a process, on a free port; its URL."""
    flags = ["--models", settings.models, "--device", settings.device, "--threads", settings.threads, "--port", 0]
    flags += ["--default-model", settings.default_model] if settings.default_model else []
    command = [sys.executable, "-m", "service", "serve", *map(str, flags), "--drain-delay-seconds", "0"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"GRADLESS_LOG_LEVEL": "info"}
    )
    timer = threading.Timer(START_SECONDS, process.kill)
    timer.start()
    try:
        yield _wait_for_url(process)
    finally:
        timer.cancel()
        process.terminate()
        process.communicate(timeout=60)


def _wait_for_url(process: subprocess.Popen[str]) -> str:
    lines = []
    for line in process.stderr or ():
        lines.append(line)
        if found := re.search(r'"url": "([^"]+)".*"serving"|"serving".*"url": "([^"]+)"', line):
            threading.Thread(target=lambda: [None for _ in process.stderr or ()], daemon=True).start()
            return found[1] or found[2]
    raise ConfigurationError(["bench: the server did not start:", *map(str.rstrip, lines[-10:])])


def load(url: str, shown: dict[str, Any], clients: int, seconds: float) -> dict[str, Any]:
    """The tally of closed-loop clients of a model, run in a process of their own."""
    host, _, port = url.partition("//")[2].rpartition(":")
    path, crop = f"/models/{shown['name']}/predict", shown["input"]["crop"]
    arguments = [host, port, path, str(crop), str(clients), str(seconds)]
    command = [sys.executable, "-m", "service.bench.load", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120)
    if done.returncode:
        raise RuntimeError(f"the load generator ended with {done.returncode}:\n{done.stderr}")
    tally = dict(json.loads(done.stdout))
    if not tally["latencies"]:
        raise RuntimeError(f"none of {tally['failures']} requests to {path} was answered")
    return tally


def _model(url: str, name: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/models/{name}", timeout=30) as answer:
        return dict(json.load(answer))
