"""One client's connection: uvicorn's, with the limits it lacks, and an end that stops its request's work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import ClientLeft, HeadersTooLarge, HeadersTooSlow, Refusal, TooManyConnections
from service.frontend.outgoing import Outgoing
from service.frontend.problems import written_out

#: The parser keeps headers of any size; beyond this, looked at once a read, they are refused.
MAX_HEADER_BYTES = 65_536
#: A refused client has so long to read why: closing at once, with bytes of it unread, would reset what it is told.
LINGER_SECONDS = 1.0

#: An extension (https://asgi.readthedocs.io/en/latest/extensions.html) of a request of which all has come: the first
#: message that its task receives is there already, and is the last.
WHOLE_BODY: dict[str, dict[object, object]] = {"gradless.whole_body": {}}


@dataclass(frozen=True)
class Limits:
    """What one connection may take, and who counts its refusals (those of a request are counted with it)."""

    header_seconds: float
    max_connections: int
    count: Callable[[Refusal], None]


class Connection(HttpToolsProtocol):
    """One connection; `heard` is when its client last said something (CLOCK_MONOTONIC seconds).

    A request whose body is read within one wake-up costs no timer: one runs only while headers are awaited.
    """

    def __init__(self, limits: Limits, **options: Any) -> None:
        super().__init__(**options)
        self._limits = limits
        self._application, self.app = self.app, self._answer
        self._answering: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._lingers = False
        self._keep_alive = False

    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    # What the transport tells

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.heard = time.monotonic()
        super().connection_made(transport)
        most = self._limits.max_connections
        if len(self.connections) > most + refused_at_once(most):
            transport.abort()
        elif len(self.connections) > most:
            self._refuse(TooManyConnections(f"This server holds {most} connections, and no more."))
        else:
            self._await_headers(0)

    def data_received(self, data: bytes) -> None:
        if self._lingers:
            return
        self.heard = time.monotonic()
        super().data_received(data)
        if self.is_idle():
            self._await_headers(len(data))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()
        if self._answering:
            self._answering.cancel(ClientLeft.name)

    # What the parser tells

    def on_headers_complete(self) -> None:
        """Until the body is complete too, an answer is a refusal that leaves the rest unread and ends all."""
        self._stop_timer()
        self._header_bytes = 0
        super().on_headers_complete()
        self._keep_alive, self.cycle.keep_alive = self.cycle.keep_alive, False
        self.cycle.transport = cast(asyncio.Transport, Outgoing(self.transport, self._end))

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.cycle.scope["extensions"] = WHOLE_BODY
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keep_alive
        if not self.pipeline:
            self.flow.resume_reading()  # paused after a large body, it would not see its client leave

    # The request's task

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, in a task that ends with the connection: what it awaits is cancelled, decoding included."""
        task = self._answering = asyncio.current_task()
        try:
            await self._application(scope, receive, send)
        except asyncio.CancelledError as cancelled:
            if cancelled.args != (ClientLeft.name,):
                raise
        finally:
            if self._answering is task:
                self._answering = None

    def on_response_complete(self) -> None:
        if not self._lingers:
            super().on_response_complete()

    def shutdown(self) -> None:
        self._keep_alive = False
        super().shutdown()

    # How it ends

    def _await_headers(self, received: int) -> None:
        self._header_bytes += received
        if self.transport.is_closing():
            return
        if self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(HeadersTooLarge(f"The headers are over {MAX_HEADER_BYTES:,} bytes."))
        elif self._timer is None:
            self._timer = self.loop.call_later(self._limits.header_seconds, self._headers_too_slow)

    def _headers_too_slow(self) -> None:
        if self._header_bytes:
            seconds = f"{self._limits.header_seconds:g}"
            self._refuse(HeadersTooSlow(f"The headers were not complete after {seconds} seconds."))
        else:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, refusal: Refusal) -> None:
        """Answer where there is no request yet."""
        self._limits.count(refusal)
        self.transport.write(written_out(refusal))
        self._linger()

    def _end(self) -> None:
        """What uvicorn calls after an answer that ends the connection."""
        if self.cycle.more_body:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Say no more, and drop what still comes, until the client closes or has had the time to."""
        self._lingers = True
        self._stop_timer()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)


def refused_at_once(most: int) -> int:
    """How many more than `most` connections may be told why they are refused; others are closed without a word."""
    return most // 8 + 1
