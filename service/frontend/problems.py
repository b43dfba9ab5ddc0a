"""The request id of every response, and the form of a refusal: `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Malformed, MethodNotAllowed, NotFound, Refusal

log = structlog.get_logger()

#: Path, refusal and request id to a response.
Form = Callable[[str, Refusal, str], Response]
_MEDIA_TYPE = "application/problem+json"
#: Methods that a route may have; HEAD goes with GET.
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_SAFE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Envelope:
    """Gives each response its `X-Request-Id` and, while draining, `Connection: close`.

    A client's own id is echoed where it is harmless in a header and a log; otherwise one is made. With `access_log`
    each response is logged under it, without its query, headers and body, once it is sent: nobody waits for the line.

    It makes one method of HEAD and GET to all that is within: the connection leaves the body out.
    """

    def __init__(self, app: ASGIApp, is_draining: Callable[[], bool], access_log: bool) -> None:
        self._app = app
        self._is_draining = is_draining
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stated = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = stated.decode() if stated and _SAFE_ID.fullmatch(stated) else _new_id()
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.monotonic()
        answered: dict[str, Any] = {}

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-request-id", request_id.encode()))
                if self._is_draining():
                    MutableHeaders(raw=message["headers"])["Connection"] = "close"
                if self._access_log:
                    took = round((time.monotonic() - began) * 1000, 2)
                    path = scope["raw_path"].decode("ascii", "backslashreplace")  # as it came: no line break in it
                    where = {"method": scope["method"], "path": path, "status": message["status"]}
                    answered.update(request_id=request_id, milliseconds=took, **where)
            await send(message)

        within = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self._app(within, receive, send_with_headers)
        finally:
            if answered:
                log.info("request", **answered)


def problem(refusal: Refusal, request_id: str) -> Response:
    """The response to a refused request."""
    return Response(_body(refusal, request_id), refusal.status, refusal.headers, media_type=_MEDIA_TYPE)


def written_out(refusal: Refusal) -> bytes:
    """A whole response, for a connection that is refused before it has a request; it ends the connection."""
    request_id = _new_id()
    body = _body(refusal, request_id)
    headers = {
        "Content-Type": _MEDIA_TYPE,
        "Content-Length": str(len(body)),
        "Connection": "close",
        "X-Request-Id": request_id,
        **refusal.headers,
    }
    lines = [f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _body(refusal: Refusal, request_id: str) -> bytes:
    fields = {
        "type": f"urn:gradless:problem:{refusal.name}",
        "title": refusal.title,
        "status": refusal.status,
        "detail": refusal.detail,
        "request_id": request_id,
    }
    return msgspec.json.encode(fields)


def _new_id() -> str:
    return f"{random.getrandbits(128):032x}"


def install_problem_handlers(app: FastAPI, form: Form) -> None:
    """Every error leaves as a refusal, those of the framework and those nobody thought of included.

    Args:
        form: gives the response to a refusal at a path, in the form of the protocol that is spoken there.
    """

    def answer(request: Request, refusal: Refusal) -> Response:
        return form(request.url.path, refusal, request.state.request_id)

    async def refused(request: Request, error: Exception) -> Response:
        return answer(request, error if isinstance(error, Refusal) else Refusal("The server failed; see its log."))

    async def framework(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        words = f"{request.method} {request.url.path[:200]}: {HTTPStatus(status).phrase}; the paths are in /docs."
        if status == 405:
            return answer(request, _not_allowed(request, words))
        if status == 404 and (place := _without_slash(request)):
            return RedirectResponse(place)
        return answer(request, (NotFound if status == 404 else Malformed)(words))

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(Exception, refused)


def _not_allowed(request: Request, words: str) -> MethodNotAllowed:
    """The refusal that names every method of the path, whichever route has it."""
    allowed = {method for method in _METHODS if _is_served(request, method)}
    if "GET" in allowed:
        allowed.add("HEAD")
    if request.method == "OPTIONS":
        words += " Pages of another origin may call once --cors-origins names their origin."
    return MethodNotAllowed(words, allowed)


def _is_served(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


def _without_slash(request: Request) -> str:
    """The place of a path that is there but for a slash behind it, or nothing.

    It is relative: the scheme and the prefix that a proxy was asked by are not known here.
    """
    path, raw = request.scope["path"], request.scope["raw_path"].decode("ascii")
    name = raw[:-1].rpartition("/")[2]
    if not (raw.endswith("/") and name):
        return ""
    scope = {**request.scope, "path": path[:-1]}
    if all(route.matches(scope)[0] is Match.NONE for route in request.app.routes):
        return ""
    return f"../{name}?{request.url.query}" if request.url.query else f"../{name}"
