"""`/v2` but for predictions: the server, its models, their configuration, the repository and statistics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import APIRouter, Security
from starlette.requests import Request
from starlette.responses import Response

import service
from service.errors import Forbidden, Malformed
from service.frontend.answered import json_response
from service.frontend.documentation import KEY
from service.frontend.protocols.open_inference.descriptions import VERSION, check_version, config, metadata
from service.frontend.protocols.open_inference.statistics import Statistics
from service.frontend.protocols.protocol import About
from service.wire.messages import ModelState

EXTENSIONS = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
]
_LOADING = "Models are loaded from their folders: change a folder and POST /models/reload, or serve with --watch."


def routes(about: About) -> APIRouter:
    """Return the routes of what is told."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"])
    known = about.client.known
    key = [Security(KEY)] if about.keys else []  # for the schema alone

    def found(name: str, version: str = "") -> ModelState:
        state = known.model(name)
        check_version(state, version)
        return state

    @router.get("", summary="The server and its extensions")
    async def server() -> Response:
        return json_response({"name": "gradless", "version": service.__version__, "extensions": EXTENSIONS})

    @router.get("/health/live", summary="The process answers")
    async def live() -> Response:
        return json_response({"live": True})

    @router.get("/health/ready", summary="Every required model can answer now", responses={503: {}})
    async def ready() -> Response:
        reasons = about.not_ready()
        content: dict[str, Any] = {"live": True, "ready": not reasons}
        return json_response(content | {"error": "; ".join(reasons)}, 503) if reasons else json_response(content)

    def one(path: str, summary: str, answer: Callable[[ModelState], Awaitable[Response]]) -> None:
        """Add a route about one model, and the same of its version."""

        @router.get(f"/models/{{model}}{path}", summary=summary, **_ONE)
        async def of_model(model: str) -> Response:
            return await answer(found(model))

        @router.get(f"/models/{{model}}/versions/{{version}}{path}", summary=summary, **_ONE)
        async def of_version(model: str, version: str) -> Response:
            return await answer(found(model, version))

    async def model_ready(state: ModelState) -> Response:
        return about.readiness(state, {})

    async def model_metadata(state: ModelState) -> Response:
        return json_response(metadata(about, known.ready_model(state.name)))

    async def model_config(state: ModelState) -> Response:
        return json_response(config(about, known.ready_model(state.name)))

    async def model_statistics(*states: ModelState) -> Response:
        about.settle()
        counted = await asyncio.to_thread(Statistics.read, about.metrics_memory)  # takes milliseconds
        told = [{"name": state.name, "version": VERSION} | counted.of(state.name) for state in states]
        return json_response({"model_stats": told})

    @router.get("/models/stats", summary="Counts and times of every model")
    async def statistics() -> Response:
        return await model_statistics(*known.models.values())

    one("/ready", "One model can answer now", model_ready)
    one("/config", "A model's configuration, as Triton's", model_config)
    one("/stats", "Counts and times of a model", model_statistics)
    one("", "A model's inputs and outputs", model_metadata)

    @router.post("/repository/index", summary="The models and their states", **_INDEX)
    async def index(request: Request) -> Response:
        only_ready = _wants_ready(await request.body())
        models = [
            {
                "name": state.name,
                "version": VERSION,
                "state": "READY" if about.is_ready(state) else "LOADING" if state.state == "loading" else "UNAVAILABLE",
                "reason": state.detail,
            }
            for state in known.models.values()
            if about.is_ready(state) or not only_ready
        ]
        return json_response(models)

    @router.post("/repository/models/{model}/load", summary="Refused", dependencies=key, **_CHANGE)
    @router.post("/repository/models/{model}/unload", summary="Refused", dependencies=key, **_CHANGE)
    async def change(request: Request, model: str) -> Response:
        if about.keys:
            about.keys.check(request.headers)
        raise Forbidden(_LOADING)

    return router


def _wants_ready(body: bytes) -> bool:
    """Read the body of an index: `{"ready": true}` for models that are ready alone.

    Raises:
        Malformed: it is another.
    """
    try:
        return bool(body and msgspec.json.decode(body, type=dict[str, bool]).get("ready", False))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed('The body must be empty, {} or {"ready": true}.') from error


_ONE: dict[str, Any] = {"responses": {"4XX": {"description": "There is no such model."}, 503: {}}}
_INDEX: dict[str, Any] = {"responses": {"4XX": {"description": "The body is not one of an index."}}}
_CHANGE: dict[str, Any] = {"responses": {"4XX": {"description": _LOADING}}}
