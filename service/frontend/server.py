"""uvicorn under a supervisor: one server for each listener of a front end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import socket
import time
from collections.abc import Callable, Generator
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from service.frontend.door import HANDSHAKE_SECONDS, turn_away
from service.frontend.http_connection import HttpConnection, Limits
from service.settings import Settings

#: Seconds of silence after which a connection is taken to be idle, and the most that is waited for any.
SILENT_SECONDS, MOST_HEARING_SECONDS = 1.0, 3.0
#: Requests that a drain's limit has cut off are told so within it.
LAST_WORDS_SECONDS = 1.0


class Server(uvicorn.Server):
    """A server that takes no signals, and leaves no connection in the listener's backlog."""

    def __init__(self, app: ASGIApp, settings: Settings, limits: Limits, listening: Callable[[], None]) -> None:
        super().__init__(_config(app, settings, limits))
        self._listening = listening

    def drain(self, limit_seconds: float) -> None:
        """Close the door and finish what is inside, within the limit; the client then refuses what is left."""
        self.config.timeout_graceful_shutdown = max(1, math.ceil(limit_seconds) + 1)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener, answer those who had connected before, then end as uvicorn does.

        The kernel resets what waits in the backlog when the last copy of a listening socket closes.
        """
        for listener in sockets or []:
            turn_away(listener)
        await asyncio.sleep(HANDSHAKE_SECONDS)
        copies = [listener.dup() for listener in sockets or []]
        for server in self.servers:
            server.close()
        for copy in copies:
            await self._accept_the_rest(copy)
        await self._hear_out()
        await super().shutdown(sockets)
        if cut_off := self.server_state.tasks:
            await asyncio.wait(cut_off, timeout=LAST_WORDS_SECONDS)

    async def _hear_out(self) -> None:
        """Wait until every connection is in a request or has been silent for a while: uvicorn closes what is idle now.

        A client that has connected, or got an answer that did not say `Connection: close`, may be about to send.
        """
        limit = time.monotonic() + MOST_HEARING_SECONDS
        while (now := time.monotonic()) < limit and (left := self._last_word() + SILENT_SECONDS - now) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left)

    def _last_word(self) -> float:
        """Return the time at which the last of the idle connections was heard."""
        connections = cast(set[HttpConnection], self.server_state.connections)
        return max((connection.heard for connection in connections if connection.is_idle()), default=0.0)

    async def _accept_the_rest(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        waiting: list[socket.socket] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting.append(listener.accept()[0])
        listener.close()
        for connection in waiting:
            await loop.connect_accepted_socket(self._protocol, connection, ssl=self.config.ssl)

    def _protocol(self) -> asyncio.Protocol:
        make = cast(Any, self.config.http_protocol_class)
        protocol = make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        return cast(asyncio.Protocol, protocol)


def _config(app: ASGIApp, settings: Settings, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        cast(Any, app),
        http=cast(Any, functools.partial(HttpConnection, limits)),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,  # Envelope has one that knows the request id
        server_header=False,
        proxy_headers=False,  # nobody here asks who the client is
        timeout_keep_alive=cast(int, settings.keep_alive_seconds),  # typed int, and handed to call_later as it is
        timeout_graceful_shutdown=30,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
    )
