"""The load generator, against a small server that answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest
from PIL import Image

from service.bench import load_generator
from service.bench.bodies import Seen
from service.bench.load_generator import Tally, Traffic, closed_loop, http_requests, open_loop
from service.tasks.photographs import bench_pictures


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(load_generator, "WARM_UP_SECONDS", 0.1)


@contextlib.asynccontextmanager
async def answering(handle) -> AsyncIterator[int]:
    """A server whose `handle(number)` gives the whole response to each request, or None to end the connection."""
    numbers = iter(range(1 << 30))
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
                response = await handle(next(numbers))
                if response is None:
                    break
                writer.write(response)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for writer in writers:
            writer.close()
            await writer.wait_closed()


def response(status: int = 200, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n{headers}\r\n{{}}".encode()


def traffic(port: int, **more) -> Traffic:
    return Traffic("127.0.0.1", port, "/predict", Seen(32), **({"seconds": 0.5} | more))


def test_a_closed_loop_counts_every_answer_by_its_kind_and_adds_up_the_stages():
    async def handle(number: int) -> bytes:
        return response(503 if number % 4 == 3 else 200, "Server-Timing: decode;dur=2.00, total;dur=3.50\r\n")

    async def run() -> Tally:
        async with answering(handle) as port:
            return await closed_loop(traffic(port, clients=3), http_requests(traffic(port)))

    tally = asyncio.run(run())
    answered, refused = tally.kinds["200"], tally.kinds["503"]
    assert answered > 10
    assert answered == len(tally.latencies_ms)
    assert tally.failures == refused == len(tally.refusals_ms)
    assert answered / 4 < refused < answered / 2
    assert tally.stages_ms["decode"] == pytest.approx(2.0 * answered)
    assert tally.stages_ms["total"] == pytest.approx(3.5 * answered)
    assert tally.rate == answered / 0.5


def test_a_connection_that_ends_without_an_answer_is_a_failure_and_its_client_goes_on():
    async def handle(number: int) -> bytes | None:
        return None if number % 10 == 9 else response()

    async def run() -> Tally:
        async with answering(handle) as port:
            return await closed_loop(traffic(port, clients=1), http_requests(traffic(port)))

    tally = asyncio.run(run())
    assert tally.kinds["closed"] > 1
    assert tally.kinds["200"] > 8 * tally.kinds["closed"]


def test_an_open_loop_sends_at_its_rate_and_counts_a_stall_in_all_that_it_held_up():
    stalled = asyncio.Event()

    async def handle(number: int) -> bytes:
        if number == 20:  # everybody waits for half a second, and so does who comes meanwhile
            stalled.set()
            time.sleep(0.5)
        return response()

    stood_still = []

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.01)
            if (seconds := time.perf_counter() - began) > 0.1:
                stood_still.append(seconds)

    async def run() -> Tally:
        async with answering(handle) as port:
            watching = asyncio.create_task(watch())
            try:
                return await open_loop(traffic(port, rate=100.0, seconds=1.5), http_requests(traffic(port)))
            finally:
                watching.cancel()

    tally = asyncio.run(run())
    assert stalled.is_set()
    assert 100 < tally.kinds["200"] < 220
    held_up = [latency for latency in tally.latencies_ms if latency > 100]
    # Of the 50 that were due in that half second 40 waited for longer than that; more where the machine stalls too.
    assert 20 < len(held_up) < 120 * sum(stood_still)
    assert tally.failures == 0


def test_bodies_are_filled_with_what_decoders_skip():
    for plain, filled in zip(bench_pictures(32), bench_pictures(32, 150_000), strict=True):
        assert len(filled) == 150_000
        with Image.open(io.BytesIO(plain)) as one, Image.open(io.BytesIO(filled)) as other:
            assert one.tobytes() == other.tobytes()


def test_the_generator_is_light():
    """It shares the cores with the server that it measures."""
    code = "import sys, service.bench.load_generator; print([name for name in sys.modules if name.startswith('torch')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
