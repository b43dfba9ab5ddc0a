"""POST /predict before everything else: the framework's middlewares and routes are for the other paths."""

from __future__ import annotations

import re

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Refusal
from service.frontend.predict import Predictor
from service.frontend.problems import problem

log = structlog.get_logger()

_NAMED = re.compile(r"/models/([^/]+)/predict")


class PredictFirst:
    """Answers `POST /predict` and `POST /models/{model}/predict`, and hands all else on.

    FastAPI documents these two; five middlewares and a table of routes would be a third of what Python does for them.
    """

    def __init__(self, app: ASGIApp, predictor: Predictor, root_path: str) -> None:
        self._app = app
        self._predictor = predictor
        self._root_path = root_path.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self._below_root(scope["path"]) if scope["type"] == "http" else ""
        if path == "/predict" and scope["method"] == "POST":
            await self._answer(None, scope, receive, send)
        elif (named := _NAMED.fullmatch(path)) and scope["method"] == "POST":
            await self._answer(named[1], scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _below_root(self, path: str) -> str:
        """A proxy takes `root_path` away, or does not."""
        return path[len(self._root_path) :] if path.startswith(f"{self._root_path}/") else path

    async def _answer(self, model: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)

        responded = False

        async def respond(response: Response) -> None:
            nonlocal responded
            responded = True
            await response(scope, receive, send)

        try:
            await self._predictor.answer(request, model, respond)
        except Refusal as refusal:
            await respond(problem(request, refusal))
        except Exception:  # a bug: no traceback reaches a client, and none is lost
            log.exception("predict failed", request_id=request.state.request_id)
            if responded:
                raise
            await respond(problem(request, Refusal("The server failed; see its log.")))
