"""One measurement of one server: the load generator's tally, and the server's CPU time meanwhile."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from service.bench.load_generator import WARM_UP_SECONDS, Tally, Traffic
from service.bench.servers import PEERS, MeasuredServer, fetch
from service.errors import ConfigurationError

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


@dataclass
class Measurement:
    """Times are milliseconds, rates pictures/s.

    Attributes:
        tally: results as clients saw them.
        cpu_seconds_per_1000: by process, CPU time of the server for a thousand answers; empty if it runs elsewhere.
        mean_batch: examples in a forward, from /metrics; None for a server that does not say.
        generator_cores: CPU time of the load generator in a second.
    """

    tally: Tally
    cpu_seconds_per_1000: dict[str, float] = field(default_factory=dict)
    mean_batch: float | None = None
    generator_cores: float = 0.0
    latency_ms: dict[str, float] = field(default_factory=dict)

    @property
    def stages_ms(self) -> dict[str, float]:
        """Return the mean of each stage of an answer, as the server reports it."""
        answers = max(1, len(self.tally.latencies_ms))
        return {stage: total / answers for stage, total in self.tally.stages_ms.items()}


def percentiles(values: list[float]) -> dict[str, float]:
    """Return percentiles by nearest rank; empty if there are no values."""
    ordered = sorted(values)
    if not ordered:
        return {}
    return {
        name: ordered[max(0, math.ceil(round(rank * len(ordered) / 100, 6)) - 1)] for name, rank in PERCENTILES.items()
    }


def measure(server: MeasuredServer, traffic: Traffic, model: str) -> Measurement:
    """Send the load and wait for its end.

    Raises:
        ConfigurationError: nothing was answered.
    """
    batches, spent = _batches(server, model), server.cpu_seconds()
    tally = generate(traffic)
    spent_after, after = server.cpu_seconds(), _batches(server, model)
    lasted = traffic.seconds + WARM_UP_SECONDS  # what was answered in the warm-up cost CPU time too
    run = Measurement(tally, generator_cores=tally.cpu_seconds / lasted, latency_ms=percentiles(tally.latencies_ms))
    run.cpu_seconds_per_1000 = {
        title: 1000 * (seconds - spent.get(title, 0.0)) / (tally.rate * lasted)
        for title, seconds in spent_after.items()
    }
    if batches and after and after[0] > batches[0]:
        run.mean_batch = (after[1] - batches[1]) / (after[0] - batches[0])
    return run


def generate(traffic: Traffic) -> Tally:
    """Run the load generator in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="gradless-bench-") as folder:
        file = Path(folder, "tally.json")
        command = [
            sys.executable,
            "-m",
            "service.bench.load_generator",
            json.dumps(msgspec.to_builtins(traffic)),
            str(file),
        ]
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=traffic.seconds + 120
        )
        if done.returncode:
            raise RuntimeError(f"the load generator ended with {done.returncode}:\n{done.stderr}")
        tally = Tally(**json.loads(file.read_bytes()))
    if not tally.latencies_ms:
        words = f"of what began in {traffic.seconds:g} s nothing was answered: {dict(tally.kinds)}"
        raise ConfigurationError.at("bench", traffic.path, words, "measure for longer with --seconds")
    return tally


def _batches(server: MeasuredServer, model: str) -> tuple[float, float] | None:
    """Return the number of forwards so far, and of the examples in them."""
    if server.name in PEERS:
        return None
    text = fetch(f"{server.url}/metrics").decode()
    found = [
        re.search(rf'^gradless_batch_size_{what}{{model="{model}"}} (\S+)', text, re.M) for what in ("count", "sum")
    ]
    count, total = (float(match[1]) if match else 0.0 for match in found)
    return count, total
