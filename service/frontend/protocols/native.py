"""Gradless's own protocol, `/predict` and `/models/{model}/predict`; refusals are `application/problem+json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
from starlette.responses import Response

from service.errors import Refusal
from service.frontend.problems import problem
from service.frontend.protocols.protocol import LARGE_BYTES, Asked, Exchange, Protocol, Sides
from service.tasks.inputs.input import Given
from service.tasks.outputs.answer import Answering, Written
from service.tasks.outputs.options import check_headers
from service.wire.messages import ModelState

#: Bodies that are one file, which is handed on as it is.
_WHOLE_FILES = ("image/", "application/octet-stream")


class NativeExchange(Exchange):
    __slots__ = ("_content_type", "_sides", "_wishes")

    def __init__(self, asked: Asked, sides: Sides, state: ModelState) -> None:
        check_headers(asked.fields)
        self.seconds = None
        self._sides = sides
        self._content_type = asked.headers.get("content-type", "")
        self._wishes = sides.output.wishes(asked.query, asked.headers.get("accept", ""), state.signature)

    def is_large(self, body: bytes) -> bool:
        return len(body) >= LARGE_BYTES and not self._content_type.startswith(_WHOLE_FILES)

    def read(self, body: bytes, most: int) -> Given:
        given = self._sides.input.read(self._content_type, body, most)
        self._wishes = self._sides.output.agreed(self._wishes, given.options)
        return given

    def write(self, results: Sequence[npt.NDArray[Any]], by: Answering) -> Written:
        return self._sides.output.write(results, by, self._wishes)


class Native(Protocol):
    name = "gradless"
    title = "Gradless"
    prefixes = ("/",)
    paths = ("/predict", "/models/{model}/predict")
    names_model = True

    def begin(self, asked: Asked, sides: Sides, state: ModelState) -> Exchange:
        return NativeExchange(asked, sides, state)

    def refused(self, refusal: Refusal, request_id: str) -> Response:
        return problem(refusal, request_id)
