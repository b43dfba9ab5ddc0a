"""`{"instances": […]}` and `{"predictions": […]}`: what TensorFlow Serving, KServe v1 and Vertex have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy.typing as npt
import orjson

from service.frontend.protocols.protocol import Asked, Exchange, Sides
from service.tasks.inputs.input import Given
from service.tasks.inputs.json_bodies import decoded, without_mark
from service.tasks.outputs.answer import JSON, Answering, Written
from service.tasks.outputs.options import top_k_of
from service.wire.messages import ModelState


class Body(msgspec.Struct):
    instances: msgspec.Raw
    parameters: dict[str, Any] | None = None


_body = msgspec.json.Decoder(Body)


class InstancesExchange(Exchange):
    """Instances are those of `/predict`, parameters its options; other keys are passed over."""

    __slots__ = ("_sides", "_wishes")

    def __init__(self, asked: Asked, sides: Sides, state: ModelState) -> None:
        self.seconds = None
        self._sides = sides
        self._wishes = sides.output.wishes((), "", state.signature)

    def read(self, body: bytes, most: int) -> Given:
        found = decoded(_body.decode, without_mark(body), _said)
        given = self._sides.input.read("application/json", b'{"instances":' + bytes(found.instances) + b"}", most)
        self._wishes = agreed(self._sides, self._wishes, found.parameters or {})
        return given

    def write(self, results: Sequence[npt.NDArray[Any]], by: Answering) -> Written:
        return Written(json({"predictions": self._sides.output.rows(results, by, self._wishes)}), JSON)


def agreed(sides: Sides, wishes: Any, parameters: Mapping[str, Any]) -> Any:
    """Return the wishes with the `top_k` of a body's parameters; others are passed over.

    Raises:
        Unprocessable: it is not such a number, or the model has no classes.
    """
    top_k = parameters.get("top_k")
    return sides.output.agreed(wishes, {} if top_k is None else {"top_k": top_k_of(str(top_k))})


def json(content: Any) -> bytes:
    """Return JSON of what may hold arrays; NaN and infinities are null."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _said(words: str) -> str:
    return f'{words}; the body must be {{"instances": […]}}, and may hold "parameters": {{…}}.'
