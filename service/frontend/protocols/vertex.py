"""Vertex AI's custom containers: predictions and health at the paths that it chooses by `AIP_*` variables.

Source: cloud.google.com, "Custom container requirements for prediction".
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from service.frontend.answered import json_response
from service.frontend.protocols.instances import InstancesExchange
from service.frontend.protocols.protocol import About, Asked, Exchange, Protocol, Sides
from service.host.platforms import vertex_routes
from service.wire.messages import ModelState


class Vertex(Protocol):
    """Has no paths where Vertex has set none; if it has set one of ours, that is its own."""

    name = "vertex"
    title = "Vertex AI"

    def __init__(self) -> None:
        self._routes = vertex_routes()
        self.paths = self.prefixes = (self._routes.predict,) if self._routes.predict else ()

    def begin(self, asked: Asked, sides: Sides, state: ModelState) -> Exchange:
        return InstancesExchange(asked, sides, state)

    def routes(self, about: About) -> APIRouter:
        router = APIRouter(tags=[self.title])
        if self._routes.health:

            @router.get(self._routes.health, summary="Every required model can answer now", responses={503: {}})
            async def health() -> Response:
                reasons = about.not_ready()
                content = {"error": "; ".join(reasons)} if reasons else {"status": "healthy"}
                return json_response(content, 503 if reasons else 200)

        return router
