"""Closed-loop clients over real sockets: each sends its next picture when it has its answer.

Runs as a process of its own (`python -m service.bench.load`) and is light, about 60 µs of CPU a request, so that
it measures the server and not itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from itertools import count
from typing import cast

import httptools
import uvloop

from service.bench.pictures import bench_pictures

#: Connections are made and pages are touched first in this time.
WARM_UP_SECONDS = 1.0


@dataclass
class Tally:
    """What all clients of a run saw: milliseconds of each request begun after the warm-up, and every failure."""

    latencies: list[float] = field(default_factory=list)
    failures: int = 0


class Client(asyncio.Protocol):
    """One keep-alive connection with one request in flight."""

    def __init__(self, requests: list[bytes], first: int, tally: Tally, start: float, end: float) -> None:
        self._requests = requests
        self._numbers = count(first)
        self._tally = tally
        self._start, self._end = start, end
        self._parser = httptools.HttpResponseParser(self)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self._requests[next(self._numbers) % len(self._requests)])

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Called by the parser when an answer is complete."""
        now = time.perf_counter()
        if self._parser.get_status_code() != 200:
            self._tally.failures += 1
        elif self._began >= self._start:
            self._tally.latencies.append((now - self._began) * 1000)
        self._parser = httptools.HttpResponseParser(self)
        if now < self._end:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if time.perf_counter() < self._end:
            self._tally.failures += 1
        if not self.done.done():
            self.done.set_result(None)


def http_request(path: str, body: bytes, content_type: str = "image/jpeg") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def closed_loop(host: str, port: int, requests: list[bytes], clients: int, seconds: float) -> Tally:
    """Run so many clients for so long against a server on this machine, after a warm-up that is not counted."""
    tally = Tally()
    start = time.perf_counter() + WARM_UP_SECONDS
    end = start + seconds
    loop = asyncio.get_running_loop()
    running = []
    for number in range(clients):
        _, client = await loop.create_connection(
            lambda first=number: Client(requests, first, tally, start, end),  # type: ignore[misc]
            host,
            port,
        )
        running.append(client)
    async with asyncio.timeout(seconds + 60):
        await asyncio.gather(*(client.done for client in running))
    return tally


def main() -> None:
    """Arguments: host, port, path, the model's crop, clients, seconds. Prints the tally as JSON."""
    host, port, path, crop, clients, seconds = sys.argv[1:]
    requests = [http_request(path, picture) for picture in bench_pictures(int(crop))]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        tally = runner.run(closed_loop(host, int(port), requests, int(clients), float(seconds)))
    result = {"seconds": float(seconds), "cpu_seconds": time.process_time(), "failures": tally.failures}
    print(json.dumps(result | {"latencies": tally.latencies}))


if __name__ == "__main__":
    main()
