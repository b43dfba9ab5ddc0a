"""A front end's applications: one for everything, or one for clients and one for operations."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline
from starlette.responses import Response
from starlette.types import ASGIApp

import service
from service.errors import Refusal
from service.frontend import documentation
from service.frontend.accounts import Accounts
from service.frontend.engines.client import Client
from service.frontend.first import PredictFirst, below_root
from service.frontend.keys import Keys
from service.frontend.operations import operations, public, reasons_not_ready
from service.frontend.predict import Predictor
from service.frontend.problems import Envelope, install_problem_handlers
from service.frontend.protocols.protocol import About
from service.frontend.protocols.spoken import protocols
from service.host.cores import usable_cores
from service.metrics import Metrics
from service.wire.messages import Reload
from service.wire.specs import FrontEndSpec


class SupervisorLink(Protocol):
    """The way from a front end to its supervisor, of which it asks nothing but reloads."""

    def send(self, frame: Reload, /) -> None:
        """Ask for a reload."""


class FrontEnd:
    """The HTTP side of a front end, whatever runs its engines and its process.

    Args:
        metrics: this process's.
        client: the way to the engines.
        supervisor: the way to the supervisor.

    Attributes:
        accounts: what was counted of requests; `settle()` writes the last of it.
        draining: set when the server is to end; /health/ready is then 503.
    """

    def __init__(self, spec: FrontEndSpec, metrics: Metrics, client: Client, supervisor: SupervisorLink) -> None:
        self.draining = False
        self._protocols = protocols()
        self.accounts = Accounts(metrics, [protocol.name for protocol in self._protocols])
        self.accounts.open("unknown")  # what is refused before its model is known
        self._settings = spec.settings
        self._metrics_memory = spec.metrics
        self._client = client
        self._supervisor = supervisor
        self._keys = Keys(self._settings.keys_file) if self._settings.keys_file else None
        metrics.announce_build(torch.__version__)

    def applications(self, apart: bool) -> list[Envelope]:
        """Return one application for everything or, `apart`, one for clients and one for operations."""
        clients = self._app()
        clients.include_router(public(self._client, self._is_draining))
        predictor = self._predictor()
        documentation.document_predict(clients, self._keys is not None, predictor.documented)
        about = self._about(predictor)
        for protocol in self._protocols:
            clients.include_router(protocol.routes(about))
            documentation.document_protocol(clients, self._keys is not None, protocol)
        operators = self._app() if apart else clients
        operators.include_router(self._operations())
        if apart:
            operators.include_router(public(self._client, self._is_draining))
        first = self._with_cors(PredictFirst(clients, predictor, self._settings.root_path, self._protocols))
        apps: list[ASGIApp] = [first, operators] if apart else [first]
        return [Envelope(app, self._is_draining, self._settings.access_log) for app in apps]

    def _app(self) -> FastAPI:
        app = FastAPIOffline(
            title="Gradless",
            version=service.__version__,
            description=documentation.DESCRIPTION,
            root_path=self._settings.root_path,
            redirect_slashes=False,
        )
        install_problem_handlers(app, self._refused)
        return app

    def _refused(self, path: str, refusal: Refusal, request_id: str) -> Response:
        """Answer with a refusal in the form of the protocol whose path it is."""
        path = below_root(path, self._settings.root_path)
        speaking = next(protocol for protocol in self._protocols if path.startswith(protocol.prefixes))
        return speaking.refused(refusal, request_id)

    def _about(self, predictor: Predictor) -> About:
        return About(
            self._client,
            self._settings,
            self._keys,
            lambda: reasons_not_ready(self._client, self._is_draining()),
            self.accounts.settle,
            self._metrics_memory,
            predictor.sides_of,
        )

    def _operations(self) -> APIRouter:
        return operations(
            self._client,
            self._is_draining,
            self.accounts.settle,
            self._metrics_memory,
            lambda: self._supervisor.send(Reload()),
            self._keys,
        )

    def _predictor(self) -> Predictor:
        decode_threads = self._settings.decode_threads or usable_cores()
        pool = ThreadPoolExecutor(decode_threads, "decode", initializer=torch.set_num_threads, initargs=(1,))
        return Predictor(self._client, pool, self._settings, self.accounts, self._keys)

    def _with_cors(self, app: ASGIApp) -> ASGIApp:
        if not self._settings.cors_origins:
            return app
        return CORSMiddleware(
            app,
            allow_origins=self._settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[
                "X-Request-Id",
                "Server-Timing",
                "Retry-After",
                "X-Gradless-Model",
                "X-Gradless-Version",
                "Inference-Header-Content-Length",
            ],
        )

    def _is_draining(self) -> bool:
        return self.draining
