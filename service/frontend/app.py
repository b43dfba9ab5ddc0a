"""The front-end process: its application, and its life from the first connection to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import structlog
import torch
import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

import service
from service.child import Control, begin_child, run_loop
from service.cores import usable_cores
from service.engine.client import EngineClient
from service.engine.wire import (
    AnyFrame,
    Drain,
    Failed,
    Generation,
    ModelState,
    Reload,
    Reloading,
    Retire,
    Waiting,
)
from service.frontend import documentation
from service.frontend.operations import Reloads, operations
from service.frontend.predict import Predictor
from service.frontend.problems import Envelope, install_problem_handlers
from service.metrics import Metrics
from service.settings import Settings
from service.specs import FrontEndSpec

log = structlog.get_logger()

#: A connection that has said nothing for so long is not about to; and no connection is waited for longer than the most.
SILENT_SECONDS, MOST_HEARING_SECONDS = 1.0, 3.0


def main(control: socket.socket, listener: socket.socket, spec: FrontEndSpec) -> None:
    """Entry point of the process; `control` is the control socket, and lifeline, from the supervisor."""
    begin_child(f"front end {spec.number}", spec.settings)
    torch.set_num_threads(1)
    run_loop(FrontEnd(spec).serve(control, listener))


class FrontEnd:
    """The live state of the process."""

    def __init__(self, spec: FrontEndSpec) -> None:
        self._spec = spec
        self._settings = spec.settings
        self.draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.metrics = Metrics(f"frontend-{spec.number}", spec.metrics)
        self.metrics.announce_build(torch.__version__)
        self.client = EngineClient(spec.start, self._settings.max_queued_examples, self.metrics)
        self.client.default_model = spec.default_model
        self.reloading = Reloading(False, 0, "")
        for name, required in spec.models.items():
            self.client.models[name] = ModelState(name, "loading", required=required)

    async def serve(self, control: socket.socket, listener: socket.socket) -> None:
        decode_threads = self._settings.decode_threads or usable_cores()
        pool = ThreadPoolExecutor(decode_threads, "decode", initializer=torch.set_num_threads, initargs=(1,))
        predictor = Predictor(self.client, pool, self._settings, self.metrics)
        app = Envelope(self._app(predictor), lambda: self.draining, self._settings.access_log)
        self._server = Server(_uvicorn_config(app, self._settings))
        self._control = await Control.open(control, self._control_frame)
        gc.collect()
        gc.freeze()  # a full collection over torch's objects stalls every request for 200 ms
        await self._server.serve(sockets=[listener])
        self.client.close()
        log.info("front end ends", number=self._spec.number)

    def _app(self, predictor: Predictor) -> FastAPI:
        app = FastAPIOffline(
            title="Gradless",
            version=service.__version__,
            description=documentation.DESCRIPTION,
            root_path=self._settings.root_path,
        )

        async def predict(request: Request) -> Response:
            return await predictor.answer(request, None)

        async def predict_with(request: Request, model: str) -> Response:
            return await predictor.answer(request, model)

        app.router.route_class = PlainRoute
        app.post("/predict", **documentation.PREDICT)(predict)
        app.post("/models/{model}/predict", **documentation.PREDICT)(predict_with)
        reloads = Reloads(lambda: self.reloading, lambda: self._control.send(Reload()))
        app.include_router(operations(self.client, lambda: self.draining, self._spec.metrics, reloads))
        install_problem_handlers(app)
        if self._settings.cors_origins:
            app.add_middleware(
                CORSMiddleware,
                allow_origins=self._settings.cors_origins,
                allow_methods=["*"],
                allow_headers=["*"],
                expose_headers=["X-Request-Id", "Server-Timing", "Retry-After"],
            )
        return app

    def _control_frame(self, frame: AnyFrame) -> None:
        if isinstance(frame, Generation):
            self._spawn(self._turn_to(frame))
        elif isinstance(frame, Failed):
            self.client.engine_failed(frame)
        elif isinstance(frame, Retire):
            self.client.let_go(frame)
        elif isinstance(frame, Waiting):
            self.client.waiting[frame.device] = frame
        elif isinstance(frame, Reloading):
            self.reloading = frame
        elif isinstance(frame, Drain):
            self._spawn(self._drain(frame))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _turn_to(self, generation: Generation) -> None:
        try:
            await self.client.turn_to(generation)
        except OSError as error:  # it died in between: the supervisor says so, and sends another
            log.warning("engine unreachable", device=generation.device, error=str(error))

    async def _drain(self, drain: Drain) -> None:
        """Answer on until balancers have noticed, then close the door and finish what is inside."""
        self.draining = True
        await asyncio.sleep(drain.delay_seconds)
        asyncio.get_running_loop().call_later(drain.limit_seconds, self.client.give_up)
        self._server.config.timeout_graceful_shutdown = max(1, math.ceil(drain.limit_seconds) + 1)
        self._server.should_exit = True


class PlainRoute(APIRoute):
    """A documented route that calls its endpoint with the request and the path's parameters, and nothing in between.

    FastAPI's own solves dependencies and opens two exit stacks a request, of which /predict has no use: 5 % of what a
    front end does for a small picture.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        endpoint = cast(Callable[..., Awaitable[Response]], self.endpoint)

        async def plain(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive, send), **scope["path_params"])
            await response(scope, receive, send)

        self.app = plain


class Connection(HttpToolsProtocol):
    """uvicorn's connection, and when its client was last heard (CLOCK_MONOTONIC seconds)."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.heard = time.monotonic()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()
        super().data_received(data)

    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete


class Server(uvicorn.Server):
    """uvicorn under a supervisor: it takes no signals, and leaves no connection in the listener's backlog."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener, answer those who had connected before, then end as uvicorn does.

        The kernel resets what waits in the backlog when the last copy of a listening socket closes.
        """
        copies = [listener.dup() for listener in sockets or []]
        for server in self.servers:
            server.close()
        for copy in copies:
            await self._accept_the_rest(copy)
        await self._hear_out()
        await super().shutdown(sockets)

    async def _hear_out(self) -> None:
        """Until every connection is in a request or has been silent for a while: uvicorn closes what is idle now.

        A client that has connected, or got an answer that did not say `Connection: close`, may be about to send.
        """
        limit = time.monotonic() + MOST_HEARING_SECONDS
        while (now := time.monotonic()) < limit and (left := self._last_word() + SILENT_SECONDS - now) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left)

    def _last_word(self) -> float:
        """When the last of the idle connections was heard."""
        connections = cast(set[Connection], self.server_state.connections)
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


def _uvicorn_config(app: Envelope, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,  # Envelope has one that knows the request id
        server_header=False,
        timeout_graceful_shutdown=30,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
    )
