"""The text of /docs: bodies, answers and refusals of POST /predict, with examples that work as they stand."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from starlette.routing import Route

from service.frontend.protocols.protocol import Protocol
from service.metrics import OWN_PROTOCOL
from service.tasks.inputs.picture_bodies import BODIES, TOP_K, Instances
from service.tasks.outputs.classes import Answer, Class, Prediction

DESCRIPTION = """\
Serves frozen PyTorch models, and proves at start-up that serving builds no gradient graph.

    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' localhost:8000/predict
"""

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


class Documented(NamedTuple):
    """A request for one model and its answer, by media type."""

    task: str
    bodies: dict[str, Any]
    answers: dict[str, Any]
    has_top_k: bool


class Served(NamedTuple):
    """The models that answer now, by name."""

    default_model: str
    models: dict[str, Documented]


def _parameter(name: str, place: str, words: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": False, "description": words, "schema": schema}


#: The JSON of a request for a picture classifier and of its answer, generated from the types that are read and written.
(_, _ANSWER_SCHEMA), SCHEMAS = msgspec.json.schema_components(
    [Instances, Answer], ref_template="#/components/schemas/{name}"
)
_BODY = {"required": True, "description": "One picture as raw bytes, several as files, or JSON.", "content": BODIES}


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
            _parameter("top_k", "query", "How many classes.", TOP_K),
            _parameter("X-Timeout-Ms", "header", "Deadline in milliseconds.", {"type": "integer", "minimum": 1}),
            _parameter("X-Request-Id", "header", "Comes back in the answer and the log.", {"type": "string"}),
        ],
        "requestBody": _BODY,
    },
}

_ERROR: dict[str, Any] = {
    "schema": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
}
_FOREIGN_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": words, "content": {"application/json": _ERROR}}
    for status, words in {"4XX": "The request cannot be answered.", "5XX": "It was not answered."}.items()
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


def document_predict(app: FastAPI, with_keys: bool, served: Callable[[], Served]) -> None:
    """Put the two paths into the schema, and each model's own; PredictFirst answers them before a request comes here.

    Args:
        served: gives the models that are ready, as they are now.
    """

    async def predict() -> None:
        raise NotImplementedError

    async def predict_with(model: str) -> None:
        raise NotImplementedError

    key = [Security(KEY)] if with_keys else []
    app.post("/predict", dependencies=key, **PREDICT)(predict)
    app.post("/models/{model}/predict", dependencies=key, **PREDICT)(predict_with)
    made = app.openapi

    def openapi() -> dict[str, Any]:
        """Add what FastAPI does not know: components of types that are not pydantic's, and the models."""
        schema = copy.deepcopy(made())
        schema.setdefault("components", {}).setdefault("schemas", {}).update(SCHEMAS)
        _document_models(schema["paths"], served())
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def document_protocol(app: FastAPI, with_keys: bool, protocol: Protocol) -> None:
    """Put the paths of another protocol's predictions into the schema; PredictFirst answers them."""
    if protocol.name == OWN_PROTOCOL:
        return
    key = [Security(KEY)] if with_keys else []
    taken = {route.path for route in app.routes if isinstance(route, Route)}
    for path in [path for path in protocol.paths if path not in taken]:
        names = re.findall(r"{(\w+)}", path)
        parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
        app.post(
            path,
            dependencies=key,
            tags=[protocol.title],
            summary="Predictions",
            operation_id=f"{protocol.name}_predict_{len(names)}",
            responses={200: {"description": "The answer."}, **_FOREIGN_REFUSALS},
            openapi_extra={"parameters": parameters, "requestBody": {"required": True, "content": {"*/*": {}}}},
        )(_answered_before)


async def _answered_before() -> None:
    raise NotImplementedError


def _document_models(paths: dict[str, Any], served: Served) -> None:
    template = paths["/models/{model}/predict"]["post"]
    for name, documented in served.models.items():
        operation = _of_one(template, name, documented)
        paths[f"/models/{name}/predict"] = {"post": operation}
        if name == served.default_model:
            paths["/predict"]["post"] |= {key: operation[key] for key in ("requestBody", "responses", "parameters")}


def _of_one(template: dict[str, Any], name: str, documented: Documented) -> dict[str, Any]:
    """Return the operation of one model."""
    operation = copy.deepcopy(template)
    operation["operationId"] = re.sub(r"\W", "_", f"predict_{name}")
    operation["summary"] = f"Predictions of {name}, {documented.task}"
    operation["requestBody"] = {"required": True, "content": documented.bodies}
    operation["responses"]["200"] = {"description": "One prediction an example.", "content": documented.answers}
    wanted = [each for each in operation["parameters"] if each["in"] != "path"]
    operation["parameters"] = [each for each in wanted if each["name"] != "top_k" or documented.has_top_k]
    return operation
