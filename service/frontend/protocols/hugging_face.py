"""`POST /hf/{model}`: what `InferenceClient(model=URL)` of huggingface_hub asks, and the answer of a pipeline.

Source: huggingface.co/docs, "Inference Endpoints", image classification.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy.typing as npt

from service.errors import Unprocessable
from service.frontend.protocols.instances import agreed, json
from service.frontend.protocols.native import NativeExchange
from service.frontend.protocols.protocol import Asked, Exchange, Protocol, Sides
from service.tasks.inputs.input import Given
from service.tasks.inputs.json_bodies import decoded, without_mark
from service.tasks.outputs.answer import JSON, Answering, Written
from service.wire.messages import ModelState


class Body(msgspec.Struct):
    """The JSON body: one file in base64, and options."""

    inputs: str
    parameters: dict[str, Any] | None = None


_body = msgspec.json.Decoder(Body)


class PipelineExchange(NativeExchange):
    __slots__ = ()

    def __init__(self, asked: Asked, sides: Sides, state: ModelState) -> None:
        if not sides.output.has_pipeline:
            words = f"Hugging Face has no pipeline for the task {state.task}"
            raise Unprocessable(f"{words}; ask by POST /models/{state.name}/predict.")
        super().__init__(asked, sides, state)
        self._content_type = self._content_type or "application/octet-stream"  # the client names none for bytes

    def read(self, body: bytes, most: int) -> Given:
        if not self._content_type.lower().startswith("application/json"):
            return super().read(body, 1)
        found = decoded(_body.decode, without_mark(body), _said)
        parameters = found.parameters or {}
        if parameters.get("function_to_apply") is not None:
            raise Unprocessable("function_to_apply is decided by the model's card (activation); leave it out.")
        file = msgspec.json.encode({"instances": [{"b64": found.inputs}]})
        given = self._sides.input.read("application/json", file, 1)
        self._wishes = agreed(self._sides, self._wishes, parameters)
        return given

    def write(self, results: Sequence[npt.NDArray[Any]], by: Answering) -> Written:
        return Written(json(self._sides.output.pipeline(results, by, self._wishes)), JSON)


def _said(words: str) -> str:
    return f'{words}; the body must be a picture file, or {{"inputs": "base64", "parameters": {{"top_k": 5}}}}.'


class HuggingFace(Protocol):
    name = "hugging_face"
    title = "Hugging Face"
    prefixes = ("/hf/",)
    paths = ("/hf/{model}",)

    def begin(self, asked: Asked, sides: Sides, state: ModelState) -> Exchange:
        return PipelineExchange(asked, sides, state)
