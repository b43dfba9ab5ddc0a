"""Open-loop traffic: requests leave when they are due, whether or not earlier ones were answered."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

import httptools


@dataclass
class Exchange:
    """One request: when it was due and when it was answered (CLOCK_MONOTONIC), and how."""

    due: float
    answered: float = 0.0
    status: int = 0
    retry_after: str = ""
    error: str = ""

    @property
    def seconds(self) -> float:
        return self.answered - self.due


@dataclass
class Connection(asyncio.Protocol):
    """A keep-alive connection that carries one exchange at a time."""

    idle: list[Connection]
    exchange: Exchange | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, exchange: Exchange, request: bytes) -> None:
        self.exchange = exchange
        self.parser = httptools.HttpResponseParser(self)
        self.transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after" and self.exchange:
            self.exchange.retry_after = value.decode()

    def on_message_complete(self) -> None:
        if self.exchange:
            self.exchange.status = self.parser.get_status_code()
            self.exchange.answered = time.monotonic()
            self.exchange = None
            if self.parser.should_keep_alive():
                self.idle.append(self)
            else:
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.idle:
            self.idle.remove(self)
        if self.exchange:
            self.exchange.error = f"connection lost: {exc}"
            self.exchange.answered = time.monotonic()


async def open_loop(port: int, request: bytes, rate: float, seconds: float, linger: float) -> list[Exchange]:
    """Poisson arrivals of one request, so many a second; then up to `linger` seconds for the last answers."""
    choices, idle, exchanges = random.Random(3), [], []  # type: ignore[var-annotated]
    loop = asyncio.get_running_loop()
    opened: list[Connection] = []
    due = time.monotonic()
    end = due + seconds
    while due < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        exchange = Exchange(due)
        exchanges.append(exchange)
        if not idle:
            _, connection = await loop.create_connection(lambda: Connection(idle), "127.0.0.1", port)
            opened.append(connection)
        else:
            connection = idle.pop()
        connection.send(exchange, request)
        due += choices.expovariate(rate)
    limit = time.monotonic() + linger
    while any(not exchange.answered for exchange in exchanges) and time.monotonic() < limit:
        await asyncio.sleep(0.05)
    for connection in opened:
        connection.transport.close()  # type: ignore[attr-defined]
    return exchanges
