"""One protocol over HTTP: its paths, its requests and answers, and its form of a refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy.typing as npt
from fastapi import APIRouter
from starlette.responses import Response

from service.errors import Refusal
from service.frontend.answered import json_response
from service.frontend.engines.client import Client
from service.frontend.keys import Keys
from service.host.memory_file import MemoryFile
from service.settings import Settings
from service.tasks.inputs.input import Given, Input
from service.tasks.outputs.answer import Answering, Output, Written
from service.tasks.outputs.results import Results
from service.wire.messages import ModelState

#: A smaller body is read, and a smaller answer written, in less time than a thread is woken in (bytes).
LARGE_BYTES = 65_536


class Asked(NamedTuple):
    """A request without its body.

    Attributes:
        headers: by name, in lower case; of several of one name the first.
        query: names and values.
        fields: every header, as it came.
        version: what its path says of the model's version; empty if nothing.
    """

    headers: Mapping[str, str]
    query: Sequence[tuple[str, str]] = ()
    fields: Sequence[tuple[bytes, bytes]] = ()
    version: str = ""


class Sides(NamedTuple):
    """The sides of a model that a front end has: what reads bodies for it, its results, and what writes answers."""

    input: Input
    results: Results
    output: Output


class Exchange:
    """One request to one model, in a protocol's form, until it is answered.

    Attributes:
        seconds: the time that its body allows for the answer; None where that says nothing of it.
    """

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: float | None = None

    def is_large(self, body: bytes) -> bool:
        """Tell whether reading a body takes so long that a thread should do it."""
        return len(body) >= LARGE_BYTES

    def read(self, body: bytes, most: int) -> Given:
        """Return the examples of a body, of which there may be `most`; nothing is decoded yet that takes long.

        Raises:
            Refusal: a 4xx.
        """
        raise NotImplementedError

    def write(self, results: Sequence[npt.NDArray[Any]], by: Answering) -> Written:
        """Return the answer.

        Args:
            results: `(count, ...)` for each output of the signature.
            by: the model that has answered.
        """
        raise NotImplementedError


class About(NamedTuple):
    """A protocol's way to what it tells of the server and its models.

    Attributes:
        not_ready: gives the reasons why the server is not ready; none if it is.
        settle: writes down what was counted of requests.
        sides: gives the sides of a model that is ready.
    """

    client: Client
    settings: Settings
    keys: Keys | None
    not_ready: Callable[[], list[str]]
    settle: Callable[[], None]
    metrics_memory: MemoryFile
    sides: Callable[[ModelState], Sides]

    def is_ready(self, state: ModelState) -> bool:
        """Tell whether a model can answer now."""
        return state.state == "ready" and self.client.is_up(state.name)

    def readiness(self, state: ModelState, more: Mapping[str, Any]) -> Response:
        """Respond with whether a model can answer now; 503 if not."""
        ready = self.is_ready(state)
        content = {"name": state.name, "ready": ready, **more}
        if ready:
            return json_response(content)
        return json_response(content | {"error": f"{state.name} is {state.state}. {state.detail}".strip()}, 503)


class Protocol:
    """One protocol.

    Attributes:
        name: the label in `requests_total{protocol}`.
        title: its name for people.
        prefixes: of paths whose refusals have its form.
        paths: of its POST requests for predictions, with `{model}` and `{version}` where they have them.
        names_model: whether its answers in JSON say by themselves which model and version they are of.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    prefixes: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    names_model: ClassVar[bool] = False

    def begin(self, asked: Asked, sides: Sides, state: ModelState) -> Exchange:
        """Take in a request of which the body is still to come.

        Raises:
            Refusal: a 4xx, whatever the body may be.
        """
        raise NotImplementedError

    def status(self, refusal: Refusal) -> int:
        """Return the HTTP status that a refusal has in this protocol."""
        return refusal.status

    def refused(self, refusal: Refusal, request_id: str) -> Response:
        """Return the response to a refused request: `{"error": …}`, as most protocols have it."""
        body = msgspec.json.encode({"error": refusal.detail})
        return Response(body, self.status(refusal), refusal.headers, media_type="application/json")

    def routes(self, about: About) -> APIRouter:
        """Return its other routes."""
        return APIRouter()
