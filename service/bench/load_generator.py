"""The load generator: closed-loop clients, or Poisson arrivals that do not wait for answers, over real sockets.

Runs as a process of its own (`python -m service.bench.load_generator`) and is light, so that it measures the server and
not itself; its own CPU time is in what it tells.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import gc
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httptools
import msgspec
import uvloop

from service.bench.bodies import Seen, bodies, open_inference

#: Time to make connections and touch pages; requests that begin in it are not counted.
WARM_UP_SECONDS = 1.0
#: Longest wait for answers after the last arrival of an open loop.
LINGER_SECONDS = 35.0


@dataclass(frozen=True)
class Traffic:
    """The requests that a generator sends.

    Attributes:
        clients: number of a closed loop's clients; each sends its next request when it has its answer.
        rate: arrivals a second of an open loop; 0 for a closed one.
        seconds: duration after the warm-up.
        seen: what the model sees: bodies are those that people send to such a model.
        body_bytes: bodies are filled up to this size with a JPEG comment; 0 leaves them as they are.
        encoding: `raw`; `json`, base64 in `{"body": …}`; or `open-inference`, with its bytes behind JSON.
    """

    host: str
    port: int
    path: str
    seen: Seen
    seconds: float
    clients: int = 0
    rate: float = 0.0
    body_bytes: int = 0
    encoding: str = "raw"


@dataclass
class Tally:
    """Results of the requests that were due after the warm-up, as clients saw them.

    Attributes:
        seconds: the time counted.
        latencies_ms: one for each 200, from the moment it was meant to leave to the end of its answer, unread.
        refusals_ms: the same of each other answer.
        kinds: counts of each status, and of each error of a connection.
        stages_ms: by name, the sum over each 200's `Server-Timing`.
        cpu_seconds: CPU time of the generator, the warm-up included.
        late_ms: an open loop's sends, p99 of how long after their moment they left; a busy generator shows here.
    """

    seconds: float
    latencies_ms: list[float] = field(default_factory=list)
    refusals_ms: list[float] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=lambda: collections.defaultdict(int))
    stages_ms: dict[str, float] = field(default_factory=lambda: collections.defaultdict(float))
    cpu_seconds: float = 0.0
    late_ms: float = 0.0

    @property
    def rate(self) -> float:
        """Pictures a second that were answered."""
        return len(self.latencies_ms) / self.seconds

    @property
    def failures(self) -> int:
        return sum(self.kinds.values()) - self.kinds.get("200", 0)

    def record(self, kind: str, milliseconds: float, timing: bytes) -> None:
        self.kinds[kind] += 1
        if kind != "200":
            self.refusals_ms.append(milliseconds)
            return
        self.latencies_ms.append(milliseconds)
        for stage in timing.split(b", ") if timing else ():
            name, _, duration = stage.partition(b";dur=")
            self.stages_ms[name.decode()] += float(duration)


class ClientConnection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight. `meant` is when it was meant to leave.

    `answered` is called with the status or the error, the milliseconds until the end of the answer was there to be
    read, `meant`, and the `Server-Timing`.
    """

    def __init__(self, answered: Callable[[ClientConnection, str, float, float, bytes], None]) -> None:
        self._answered = answered
        self._meant = self._arrived = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, meant: float) -> None:
        self._meant, self._timing = meant, b""
        self._transport.write(request)
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        self._arrived = time.perf_counter()  # the server's time does not include reading the answer
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"server-timing":
            self._timing = value

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self._transport.close()
        self._tell(str(self._parser.get_status_code()), self._timing)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._meant:
            self._arrived = time.perf_counter()
            self._tell(type(exc).__name__ if exc else "closed", b"")

    def _tell(self, kind: str, timing: bytes) -> None:
        meant, self._meant = self._meant, 0.0
        self._answered(self, kind, (self._arrived - meant) * 1000, meant, timing)

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def close(self) -> None:
        self._meant = 0.0
        self._transport.close()


async def closed_loop(traffic: Traffic, requests: Sequence[bytes]) -> Tally:
    """Run clients with a connection each; a client whose connection ends makes another."""
    tally = Tally(traffic.seconds)
    start = time.perf_counter() + WARM_UP_SECONDS
    end = start + traffic.seconds
    answers: list[asyncio.Queue[None]] = [asyncio.Queue() for _ in range(traffic.clients)]

    def answered(number: int, kind: str, milliseconds: float, meant: float, timing: bytes) -> None:
        if meant >= start:
            tally.record(kind, milliseconds, timing)
        answers[number].put_nowait(None)

    async def client(number: int) -> None:
        connection = None
        for turn in range(number, 1 << 62):
            if (now := time.perf_counter()) >= end:
                break
            if connection is None or not connection.is_open:
                connection = await _connect(traffic, lambda _, *told: answered(number, *told))
            connection.send(requests[turn % len(requests)], now)
            await answers[number].get()
        if connection:
            connection.close()

    async with asyncio.timeout(traffic.seconds + 90):
        await asyncio.gather(*map(client, range(traffic.clients)))
    return tally


async def open_loop(traffic: Traffic, requests: Sequence[bytes]) -> Tally:
    """Send requests as a Poisson process, on as many connections as are needed.

    A latency counts from the moment an arrival was meant to leave, so that a stall shows in all that it held up
    ("coordinated omission": Gil Tene).
    """
    tally = Tally(traffic.seconds)
    idle: list[ClientConnection] = []
    waiting, choices, late = 0, random.Random(7), []  # noqa: S311
    start = time.perf_counter() + WARM_UP_SECONDS
    due, end = start - WARM_UP_SECONDS, start + traffic.seconds

    def answered(connection: ClientConnection, kind: str, milliseconds: float, meant: float, timing: bytes) -> None:
        nonlocal waiting
        waiting -= 1
        if meant >= start:
            tally.record(kind, milliseconds, timing)
        if connection.is_open:
            idle.append(connection)

    number = 0
    while due < end:
        if (ahead := due - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        while idle and not idle[-1].is_open:
            idle.pop()
        connection = idle.pop() if idle else await _connect(traffic, answered)
        late.append((time.perf_counter() - due) * 1000)
        waiting += 1
        connection.send(requests[number % len(requests)], due)
        number += 1
        due += choices.expovariate(traffic.rate)
    last = time.perf_counter() + LINGER_SECONDS
    while waiting and time.perf_counter() < last:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    if waiting:
        tally.kinds["no answer"] += waiting
    tally.late_ms = sorted(late)[int(0.99 * len(late))]
    for connection in idle:
        connection.close()
    return tally


async def _connect(
    traffic: Traffic, answered: Callable[[ClientConnection, str, float, float, bytes], None]
) -> ClientConnection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: ClientConnection(answered), traffic.host, traffic.port)
    return connection


def http_requests(traffic: Traffic) -> list[bytes]:
    """Return a whole request for each body."""
    return [_request(traffic, body) for body in bodies(traffic.seen, traffic.body_bytes)]


def _request(traffic: Traffic, body: bytes) -> bytes:
    kind = traffic.seen.content_type
    if traffic.encoding == "json":
        body, kind = json.dumps({"body": base64.b64encode(body).decode()}).encode(), "application/json"
    more = ""
    if traffic.encoding == "open-inference":
        body, length = open_inference(traffic.seen, body)
        kind, more = "application/octet-stream", f"Inference-Header-Content-Length: {length}\r\n"
    head = f"POST {traffic.path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {kind}\r\n{more}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def main() -> None:
    """Run from two arguments: the traffic as JSON, and the file for the tally, as JSON."""
    traffic = msgspec.convert(json.loads(sys.argv[1]), Traffic)
    requests = http_requests(traffic)
    gc.collect()
    gc.freeze()  # a collection here would look like a stall of the server
    run = open_loop if traffic.rate else closed_loop
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        began = time.process_time()
        tally = runner.run(run(traffic, requests))
    tally.cpu_seconds = time.process_time() - began
    Path(sys.argv[2]).write_text(json.dumps(vars(tally)), encoding="utf-8")


if __name__ == "__main__":
    main()
