"""KServe's protocol v1, that of TensorFlow Serving's rows; its list of models is OpenAI's as well.

Sources: kserve.github.io, "V1 Inference Protocol"; platform.openai.com, "Models".
"""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from service.frontend.answered import json_response
from service.frontend.protocols.instances import InstancesExchange
from service.frontend.protocols.protocol import About, Asked, Exchange, Protocol, Sides
from service.wire.messages import ModelState

_ONE: dict[str, Any] = {
    "responses": {"4XX": {"description": "There is no such model."}, 503: {"description": "It is not ready."}}
}


class KServeV1(Protocol):
    name = "kserve_v1"
    title = "KServe v1"
    prefixes = ("/v1",)
    paths = ("/v1/models/{model}:predict",)

    def begin(self, asked: Asked, sides: Sides, state: ModelState) -> Exchange:
        return InstancesExchange(asked, sides, state)

    def routes(self, about: About) -> APIRouter:
        router = APIRouter(prefix="/v1", tags=[self.title])
        known, began = about.client.known, int(time.time())

        def entry(name: str) -> dict[str, Any]:
            """Return a model as OpenAI's list has it; `created` is when this process began, in seconds of Unix time."""
            return {"id": name, "object": "model", "created": began, "owned_by": "gradless"}

        @router.get("/models", summary="The models' names")
        async def models() -> Response:
            data = [entry(name) for name in known.models]
            return json_response({"models": list(known.models), "object": "list", "data": data})

        @router.get("/models/{model}", summary="Whether a model can answer now", **_ONE)
        async def one(model: str) -> Response:
            return about.readiness(known.model(model), entry(model))

        return router
