"""Amazon SageMaker's containers: `POST /invocations` and `GET /ping`.

Source: docs.aws.amazon.com, "Use your own inference code with hosting services". A JSON body that is a list, as
SageMaker's own encoders write arrays, holds the instances. What comes as such a list, as CSV or as npy is answered in
JSON by a list as well. The rest is as at /predict.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
from fastapi import APIRouter
from starlette.responses import Response

from service.frontend.answered import json_response
from service.frontend.protocols.instances import json
from service.frontend.protocols.native import NativeExchange
from service.frontend.protocols.protocol import About, Asked, Exchange, Protocol, Sides
from service.tasks.inputs.input import Given
from service.tasks.outputs.answer import JSON, Answering, Written
from service.wire.messages import ModelState

_ARRAYS = ("text/csv", "application/x-npy")


class InvocationExchange(NativeExchange):
    __slots__ = ("_is_array",)

    def read(self, body: bytes, most: int) -> Given:
        kind = self._content_type.lower()
        is_list = kind.startswith("application/json") and body.lstrip()[:1] == b"[" and body.rstrip()[-1:] == b"]"
        self._is_array = is_list or kind.startswith(_ARRAYS)
        return super().read(b'{"instances":' + body + b"}" if is_list else body, most)

    def write(self, results: Sequence[npt.NDArray[Any]], by: Answering) -> Written:
        written = super().write(results, by)
        if self._is_array and written.media_type is JSON:
            return Written(json(self._sides.output.rows(results, by, self._wishes)), JSON)
        return written


class SageMaker(Protocol):
    name = "sagemaker"
    title = "Amazon SageMaker"
    prefixes = ("/invocations", "/ping")
    paths = ("/invocations",)

    def begin(self, asked: Asked, sides: Sides, state: ModelState) -> Exchange:
        return InvocationExchange(asked, sides, state)

    def routes(self, about: About) -> APIRouter:
        router = APIRouter(tags=[self.title])

        @router.get("/ping", summary="Every required model can answer now", responses={503: {}})
        async def ping() -> Response:
            """Answer as TorchServe does, too."""
            reasons = about.not_ready()
            content = {"status": "Unhealthy", "error": "; ".join(reasons)} if reasons else {"status": "Healthy"}
            return json_response(content, 503 if reasons else 200)

        return router
