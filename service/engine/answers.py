"""The way of an engine's answers to a front end: written to the socket by the thread that has them.

Handing them to the event loop's thread costs two switches of threads, a tenth of a millisecond where a forward has
swept the caches. The loop writes only what a full socket does not take at once.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence

from service.wire.framing import pieces
from service.wire.messages import Frame

#: Between two looks at whether a socket that was full has taken all.
CATCH_UP_SECONDS = 0.01


class Answers:
    """Writes to one connection. All frames on it go through here, so that those of two threads never mingle."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        # A copy: the transport closes its own when it likes, and the number may then be another file's.
        self._socket: int | None = os.dup(transport.get_extra_info("socket").fileno())
        self._handed_over = self._in_transport = 0  # pieces that the loop has, or will have, and those it has written

    def send(self, frames: Sequence[Frame]) -> None:
        """Write them now, or let the loop write what does not fit; a connection that has ended drops them."""
        data = b"".join(pieces(*frames))
        with self._lock:
            if not self._handed_over:
                data = data[self._write(data) :]
            if data:
                self._handed_over += 1
                self._loop.call_soon_threadsafe(self._write_in_loop, data)

    def _write(self, data: bytes) -> int:
        """Return how many bytes the socket has taken, or dropped because its other end is gone."""
        if self._socket is None:
            return len(data)
        try:
            return os.write(self._socket, data)
        except OSError:  # it is full; or whatever it is, the loop meets it too, and closes the connection
            return 0

    def _write_in_loop(self, data: bytes) -> None:
        if self._transport.is_closing():  # nobody reads any more: what comes is dropped here
            return
        self._transport.write(data)
        self._in_transport += 1
        if self._in_transport == 1:
            self._catch_up()

    def _catch_up(self) -> None:
        """Once the socket has all that was handed over, others may write to it again."""
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size():
            self._loop.call_later(CATCH_UP_SECONDS, self._catch_up)
            return
        with self._lock:
            self._handed_over -= self._in_transport
        self._in_transport = 0

    def close(self) -> None:
        with self._lock:
            if self._socket is not None:
                os.close(self._socket)
                self._socket = None
