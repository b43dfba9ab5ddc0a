"""The text of /docs: bodies, answers and refusals of POST /predict, with examples that work as they stand."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer

from service.frontend.inputs import Instances
from service.frontend.options import DEFAULT_TOP_K, MAX_TOP_K
from service.tasks.outputs.classes import Answer, Class, Prediction

DESCRIPTION = """\
Serves frozen PyTorch models, and proves at start-up that serving builds no gradient graph.

    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' localhost:8000/predict
"""

_PIXELS = {"instances": [[[[250, 200, 0], [250, 200, 0]], [[20, 90, 20], [20, 90, 20]]]]}
#: A complete 1 x 1 PNG.
_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="

_ANSWER = msgspec.to_builtins(Answer("efficientnet_lite0", "0123456789ab", [Prediction([Class(985, "daisy", 0.9737)])]))
_PROBLEM = {
    "type": "urn:gradless:problem:unprocessable",
    "title": "The input cannot be used",
    "status": 422,
    "detail": "The bytes are not a picture in a supported format; send a JPEG, PNG, GIF or WebP file.",
    "request_id": "5f0c6b1f0a6d4f0f9a52d7f2d3a0c7d1",
}
_REFUSALS = {
    400: "The request is malformed: an empty body, broken JSON or multipart, a header that is no number.",
    401: "The server has keys, and the request carries none of them.",
    404: "There is no such model.",
    408: "The body was not complete in time.",
    413: "Too many bytes, pixels, scans or pictures.",
    415: "The content type is none of those served, or the content coding is neither gzip nor deflate.",
    422: "Not a picture, a broken one, or numbers of the wrong shape; of several, the first bad one is named. "
    "Or an option that there is not, in the query, the form or a header.",
    500: "The model failed.",
    503: "Overloaded, draining or not ready; Retry-After says when to come back, in seconds.",
    504: "The deadline (X-Timeout-Ms) passed.",
}


#: What the schema says of keys, where the server has some.
KEY = HTTPBearer(scheme_name="key", description="One of the server's keys.", auto_error=False)


def _parameter(name: str, place: str, words: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": False, "description": words, "schema": schema}


_BINARY = {"type": "string", "format": "binary"}
_TOP_K = {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": DEFAULT_TOP_K}
_FILES = {
    "type": "object",
    "properties": {"file": {"type": "array", "items": _BINARY}, "top_k": _TOP_K},
    "required": ["file"],
}
#: What the JSON of a request and of an answer is, generated from the types that are read and written.
(_INSTANCES_SCHEMA, _ANSWER_SCHEMA), SCHEMAS = msgspec.json.schema_components(
    [Instances, Answer], ref_template="#/components/schemas/{name}"
)
_BODY = {
    "required": True,
    "description": "One picture as raw bytes, several as files, or JSON.",
    "content": {
        "image/*": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
        "multipart/form-data": {"schema": _FILES},
        "application/json": {
            "schema": _INSTANCES_SCHEMA,
            "examples": {
                "pixels": {"summary": "numbers (H, W, 3), RGB, 0 to 255", "value": _PIXELS},
                "base64": {"summary": "a picture file in base64", "value": {"instances": [{"b64": _PNG}]}},
            },
        },
    },
}


def _problem(words: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {name: {} for name in _PROBLEM}, "required": list(_PROBLEM)}
    return {"description": words, "content": {"application/problem+json": {"schema": schema, "example": _PROBLEM}}}


#: Keyword arguments of the two /predict routes.
PREDICT: dict[str, Any] = {
    "tags": ["predict"],
    "summary": "The classes of one or more pictures",
    "responses": {
        200: {
            "description": "One prediction a picture.",
            "content": {"application/json": {"schema": _ANSWER_SCHEMA, "example": _ANSWER}},
        },
        **{status: _problem(words) for status, words in _REFUSALS.items()},
    },
    "openapi_extra": {
        "parameters": [
            _parameter("top_k", "query", "How many classes.", _TOP_K),
            _parameter("X-Timeout-Ms", "header", "Deadline in milliseconds.", {"type": "integer", "minimum": 1}),
            _parameter("X-Request-Id", "header", "Comes back in the answer and the log.", {"type": "string"}),
        ],
        "requestBody": _BODY,
    },
}

#: Keyword arguments of the routes that ask about one model. With a 4XX, FastAPI adds no 422 of its own.
ONE_MODEL: dict[str, Any] = {"responses": {"4XX": _problem("There is no such model.")}}
#: Keyword arguments of the two routes that reload.
RELOAD: dict[str, Any] = {
    "status_code": 202,
    "responses": {
        "4XX": _problem("There is no such model, or the server has keys and the request carries none of them."),
        503: _problem(_REFUSALS[503]),
    },
}


def document_predict(app: FastAPI, with_keys: bool) -> None:
    """Put the two paths into the schema; PredictFirst answers them before a request comes here."""

    async def predict() -> None:
        raise NotImplementedError

    async def predict_with(model: str) -> None:
        raise NotImplementedError

    key = [Security(KEY)] if with_keys else []
    app.post("/predict", dependencies=key, **PREDICT)(predict)
    app.post("/models/{model}/predict", dependencies=key, **PREDICT)(predict_with)
    _add_schemas(app)


def _add_schemas(app: FastAPI) -> None:
    """Put what the two paths refer to into the schema; FastAPI knows components of pydantic's types alone."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        schema = made()
        schema.setdefault("components", {}).setdefault("schemas", {}).update(SCHEMAS)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
