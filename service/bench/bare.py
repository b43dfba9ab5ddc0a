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

from service.bench.job import Job, Order
from service.bench.pictures import bench_pictures

#: Between two others the bare loop runs for so long.
CANARY_SECONDS = 0.7


@contextlib.contextmanager
def bare_loop(order: Order) -> Iterator[tuple[Any, list[int]]]:
    """The bare loop in a process of its own, waiting for orders, and the batch sizes that it knows."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=run_bare_loop, args=(theirs, order), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours, ours.recv()
        ours.send(None)
        process.join(10)
    finally:
        process.kill()


def ask(bare: Any, forward: str, batch_size: int, seconds: float) -> tuple[float, float]:
    """Pictures/s and the median milliseconds of a batch."""
    bare.send((forward, batch_size, seconds))
    rate, batch_ms = bare.recv()
    return rate, batch_ms


def run_bare_loop(connection: Connection, order: Order) -> None:
    """Entry point of the bare loop's process: answers `(forward, batch_size, seconds)` with pictures/s and ms a batch.

    It has the process for itself, as a hand-written script would.
    """
    job = Job(order)
    connection.send(job.sizes)
    running = ""
    while (wanted := connection.recv()) is not None:
        forward, batch_size, seconds = wanted
        if forward != running:
            job.run(forward)
            running = forward
        connection.send(_run(job, batch_size, seconds))


def _run(job: Job, batch_size: int, seconds: float) -> tuple[float, float]:
    times = []
    end = time.perf_counter() + seconds
    for files in _batches(batch_size, job.crop):
        began = time.perf_counter()
        job.answers([job.decode(file) for file in files])
        times.append(time.perf_counter() - began)
        if time.perf_counter() > end:
            break
    return batch_size * len(times) / sum(times), statistics.median(times) * 1000


def _batches(size: int, crop: int) -> Iterator[list[bytes]]:
    pictures = cycle(bench_pictures(crop))
    while True:
        yield list(islice(pictures, size))
