"""The loop that people write by hand: decode, resize, batch, forward. Serving is measured against it."""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from itertools import cycle, islice
from multiprocessing.connection import Connection
from typing import Any

from service.bench.bodies import Seen, bodies
from service.bench.workload import Workload, WorkloadSpec

#: Length of the bare loop's run between two other measurements.
CANARY_SECONDS = 0.7


@contextlib.contextmanager
def bare_loop(spec: WorkloadSpec) -> Iterator[tuple[Any, list[int]]]:
    """Start the bare loop in a process of its own; give its connection, and the batch sizes that it knows."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=run_bare_loop, args=(theirs, spec), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours, ours.recv()
        ours.send(None)
        process.join(10)
    finally:
        process.kill()


def ask(bare: Any, forward: str, batch_size: int, seconds: float) -> tuple[float, float]:
    """Return examples/s and the median milliseconds of a batch."""
    bare.send((forward, batch_size, seconds))
    rate, batch_ms = bare.recv()
    return rate, batch_ms


def run_bare_loop(connection: Connection, spec: WorkloadSpec) -> None:
    """Entry point of the bare loop's process: answers `(forward, batch_size, seconds)` with examples/s and ms a batch.

    It has the process for itself, as a hand-written script would.
    """
    workload = Workload(spec)
    connection.send(workload.sizes)
    running = ""
    while (wanted := connection.recv()) is not None:
        forward, batch_size, seconds = wanted
        if forward != running:
            workload.run(forward)
            running = forward
        connection.send(_run(workload, batch_size, seconds))


def _run(workload: Workload, batch_size: int, seconds: float) -> tuple[float, float]:
    times = []
    end = time.perf_counter() + seconds
    for files in _batches(batch_size, workload.seen):
        began = time.perf_counter()
        workload.answers([workload.decode(file) for file in files])
        times.append(time.perf_counter() - began)
        if time.perf_counter() > end:
            break
    return batch_size * len(times) / sum(times), statistics.median(times) * 1000


def _batches(size: int, seen: Seen) -> Iterator[list[bytes]]:
    files = cycle(bodies(seen))
    while True:
        yield list(islice(files, size))
