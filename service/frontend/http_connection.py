"""One client's connection, with limits, and with an end that stops its request's work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from starlette.types import Receive, Scope, Send

from service.errors import ClientLeft, HeadersTooSlow, Refusal, TooManyConnections
from service.frontend.outgoing import Outgoing
from service.frontend.problems import written_out
from service.frontend.request_reader import RequestReader

#: Seconds that a refused client has to read why: closing at once, with bytes of it unread, would reset what it is told.
LINGER_SECONDS = 1.0
#: Interval at which a client that has said its last is asked whether it is there, while it waits for its answer.
LOOK_SECONDS = 0.5
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True)
class Limits:
    """Limits of one connection; `count` is told of its refusals (those of a request are counted with it)."""

    header_seconds: float
    max_connections: int
    count: Callable[[Refusal], None]


class HttpConnection(RequestReader):
    """One connection; `heard` is when its client last said something (CLOCK_MONOTONIC seconds).

    A request whose body is read within one wake-up costs no timer: one runs only while headers are awaited.
    """

    def __init__(self, limits: Limits, **options: Any) -> None:
        super().__init__(**options)
        self._limits = limits
        self._application, self.app = self.app, self._answer
        self._answering: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fault: Refusal | None = None
        self._condemned: Scope | None = None
        self._lingers = False

    def is_idle(self) -> bool:
        """Tell whether no request is being answered."""
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
            self._await_headers()

    def data_received(self, data: bytes) -> None:
        if self._lingers or self._fault:
            return
        self.heard = time.monotonic()
        self._unset_keepalive_if_required()
        if fault := self.read(data):
            self._fail(fault)
        elif self.is_idle():
            self._await_headers()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Leave the way back open to a client that has sent its request and says no more.

        That it has closed the connection altogether looks the same (decision 0014).
        """
        if self._lingers or self.is_idle() or self.cycle.more_body or self.scheme == "https":
            return False
        self.cycle.keep_alive = False
        if self._timer is None:
            self._timer = self.loop.call_later(LOOK_SECONDS, self._look_after_client)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_timer()
        if self._answering:
            self._answering.cancel(ClientLeft.name)

    # The request's task

    def begun(self) -> None:
        self._stop_timer()
        self.cycle.transport = cast(asyncio.Transport, Outgoing(self.transport, self._end))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application in a task that ends with the connection: what it awaits, decoding too, is cancelled."""
        task = self._answering = asyncio.current_task()
        try:
            if scope is self._condemned:
                self._answer_fault()
            else:
                await self._application(scope, receive, send)
        except asyncio.CancelledError as cancelled:
            if cancelled.args == (self._fault,):
                self._answer_fault()
            elif cancelled.args != (ClientLeft.name,):
                raise
        finally:
            if self._answering is task:
                self._answering = None

    def on_response_complete(self) -> None:
        if self._lingers:
            return
        if self._fault and not self.pipeline and not self.transport.is_closing():
            self._refuse(self._fault)
        else:
            super().on_response_complete()

    # How it ends

    def _await_headers(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self._limits.header_seconds, self._headers_too_slow)

    def _headers_too_slow(self) -> None:
        if self.is_within_head():
            seconds = f"{self._limits.header_seconds:g}"
            self._refuse(HeadersTooSlow(f"The headers were not complete after {seconds} seconds."))
        else:
            self.transport.close()

    def _fail(self, fault: Refusal) -> None:
        """Read no more: what has come cannot be read. Requests before it are answered first.

        A request whose body it is in, or follows where only a Content-Length says that the body has ended, has no other
        answer: nobody knows what that body was to be.
        """
        self._fault = fault
        if self.is_idle():
            self._refuse(fault)
        elif not self.cycle.response_started and (
            self.cycle.more_body or _states_length(cast(Scope, self.cycle.scope))
        ):
            self.cycle.keep_alive = False
            self._condemned = cast(Scope, self.cycle.scope)
            if self._answering and not self.pipeline:
                self._answering.cancel(fault)

    def _answer_fault(self) -> None:
        """Refuse in place of the request's own answer, which nobody has begun."""
        self.cycle.disconnected = True
        self._refuse(cast(Refusal, self._fault))

    def _look_after_client(self) -> None:
        """Draw a reset from a client that has gone, which ends the connection when the next bytes are written.

        One that waits may discard a 100 that it did not expect (RFC 9110, 15.2.1); HTTP/1.0 has none.
        """
        if not (self.pipeline or self.cycle.response_started or self.cycle.scope["http_version"] == "1.0"):
            self.transport.write(_CONTINUE)
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look_after_client)

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
        """End the connection; uvicorn calls this after an answer that is the last."""
        if self.cycle.more_body or self._fault:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        """Say no more, and drop what still comes, until the client closes or has had the time to."""
        self._lingers = True
        self._stop_timer()
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._timer = self.loop.call_later(LINGER_SECONDS, self.transport.abort)


def refused_at_once(most: int) -> int:
    """Return how many connections above `most` are told why they are refused; others are closed without a word."""
    return most // 8 + 1


def _states_length(scope: Scope) -> bool:
    return any(name == b"content-length" for name, _ in scope["headers"])
