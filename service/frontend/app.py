"""The front-end process: its application, and its life from the first connection to the last answer."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import structlog
import torch
from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import service
from service.child import Control, begin_child, run_loop
from service.cores import usable_cores
from service.engine.client import EngineClient
from service.engine.wire import (
    AnyFrame,
    Drain,
    Failed,
    Generation,
    Listening,
    ModelState,
    Optimized,
    Reload,
    Reloading,
    Retire,
    Waiting,
)
from service.errors import Refusal, TooManyConnections
from service.frontend import documentation
from service.frontend.accounts import Accounts
from service.frontend.connection import Limits
from service.frontend.first import PredictFirst
from service.frontend.keys import Keys
from service.frontend.limits import allowed_connections
from service.frontend.operations import Reloads, operations, public
from service.frontend.predict import Predictor
from service.frontend.problems import Envelope, install_problem_handlers
from service.frontend.server import Server
from service.metrics import Metrics
from service.specs import FrontEndSpec

log = structlog.get_logger()


def main(control: socket.socket, listeners: Sequence[socket.socket], spec: FrontEndSpec) -> None:
    """Entry point of the process; `control` is the control socket, and lifeline, from the supervisor.

    The first listener is for clients; a second one, if there is one, for operations.
    """
    begin_child(f"front end {spec.number}", spec.settings)
    torch.set_num_threads(1)
    run_loop(FrontEnd(spec).serve(control, listeners))


class FrontEnd:
    """The live state of the process."""

    def __init__(self, spec: FrontEndSpec) -> None:
        self._spec = spec
        self._settings = spec.settings
        self.draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.metrics = Metrics(f"frontend-{spec.number}", spec.metrics)
        self.metrics.announce_build(torch.__version__)
        self.metrics.rejected.labels("unknown", TooManyConnections.name)  # an alert looks for its increase from 0
        self.accounts = Accounts(self.metrics)
        self.client = EngineClient(spec.start, self._settings.max_queued_examples, self.metrics)
        self.client.default_model = spec.default_model
        self.reloading = Reloading(False, 0, "")
        self._keys = Keys(self._settings.keys_file) if self._settings.keys_file else None
        for name, required in spec.models.items():
            self.client.models[name] = ModelState(name, "loading", required=required)

    async def serve(self, control: socket.socket, listeners: Sequence[socket.socket]) -> None:
        limits = Limits(
            self._settings.header_timeout_seconds, allowed_connections(self._settings.max_connections), self._count
        )
        apps = self._apps(apart=len(listeners) > 1)
        self._servers = [Server(app, self._settings, limits, self._listens) for app in apps]
        self._control = await Control.open(control, self._control_frame)
        gc.collect()
        gc.freeze()  # a full collection over torch's objects stalls every request for 200 ms
        serving = zip(self._servers, listeners, strict=True)
        await asyncio.gather(*(server.serve(sockets=[listener]) for server, listener in serving))
        self.client.close()
        self.accounts.settle()
        log.info("front end ends", number=self._spec.number)

    def _apps(self, apart: bool) -> list[Envelope]:
        """One application for everything, or one for clients and one for operations."""
        reloads = Reloads(lambda: self.reloading, lambda: self._control.send(Reload()))
        clients = self._app()
        clients.include_router(public(self.client, self._is_draining, reloads))
        documentation.document_predict(clients, with_keys=self._keys is not None)
        operators = self._app() if apart else clients
        operators.include_router(self._operations(reloads))
        if apart:
            operators.include_router(public(self.client, self._is_draining, reloads))
        first = self._with_cors(PredictFirst(clients, self._predictor(), self._settings.root_path))
        apps: list[ASGIApp] = [first, operators] if apart else [first]
        return [Envelope(app, self._is_draining, self._settings.access_log) for app in apps]

    def _app(self) -> FastAPI:
        app = FastAPIOffline(
            title="Gradless",
            version=service.__version__,
            description=documentation.DESCRIPTION,
            root_path=self._settings.root_path,
        )
        app.router.route_class = PlainRoute
        install_problem_handlers(app)
        return app

    def _operations(self, reloads: Reloads) -> APIRouter:
        settle, folder = self.accounts.settle, self._spec.metrics
        return operations(self.client, self._is_draining, settle, folder, reloads, self._keys)

    def _predictor(self) -> Predictor:
        decode_threads = self._settings.decode_threads or usable_cores()
        pool = ThreadPoolExecutor(decode_threads, "decode", initializer=torch.set_num_threads, initargs=(1,))
        return Predictor(self.client, pool, self._settings, self.accounts, self._keys)

    def _with_cors(self, app: ASGIApp) -> ASGIApp:
        if not self._settings.cors_origins:
            return app
        return CORSMiddleware(
            app,
            allow_origins=self._settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Server-Timing", "Retry-After"],
        )

    def _is_draining(self) -> bool:
        return self.draining

    def _listens(self) -> None:
        """One more of the servers accepts connections."""
        if all(server.started for server in self._servers):
            self._control.send(Listening())

    def _count(self, refusal: Refusal) -> None:
        """A refusal of a connection, which has no model yet."""
        self.metrics.rejected.labels("unknown", refusal.name).inc()

    def _control_frame(self, frame: AnyFrame) -> None:
        if isinstance(frame, Generation):
            self._spawn(self._turn_to(frame))
        elif isinstance(frame, Failed):
            self.client.engine_failed(frame)
        elif isinstance(frame, Retire):
            self.client.let_go(frame)
        elif isinstance(frame, Waiting):
            self.client.waiting[frame.device] = frame
        elif isinstance(frame, Optimized):
            self.client.verdicts[frame.model, frame.version] = frame.verdict
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
        for server in self._servers:
            server.drain(drain.limit_seconds)


class PlainRoute(APIRoute):
    """A documented route that calls its endpoint with the request and the path's parameters, and nothing in between.

    FastAPI's own solves dependencies and opens two exit stacks a request, of which no endpoint here has a use.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        endpoint = cast(Callable[..., Awaitable[Response]], self.endpoint)

        async def plain(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive, send), **scope["path_params"])
            await response(scope, receive, send)

        self.app = plain
