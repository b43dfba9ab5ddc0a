"""Refusals at the door: too many bytes, too slow a body, more connections than there are file handles."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections.abc import Awaitable, Mapping
from typing import TypeVar

import structlog
from starlette.requests import Request

from service.errors import BodyTooSlow, ClientLeft, DeadlineExceeded, Malformed, TooLarge
from service.frontend.http_connection import refused_at_once
from service.frontend.request_reader import WHOLE_BODY
from service.settings import Settings
from service.validation import whole_number

log = structlog.get_logger()

T = TypeVar("T")

#: File handles that a front end keeps for itself: sockets to engines, metrics, a reading of its own process.
OWN_HANDLES = 40


def allowed_connections(wanted: int) -> int:
    """Return the wanted number of connections, or that of file handles for them; raise the soft limit to the hard."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS has another limit behind this one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    handles, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if handles == resource.RLIM_INFINITY or wanted + refused_at_once(wanted) <= handles - OWN_HANDLES:
        return wanted
    most = max(1, (handles - OWN_HANDLES - 1) * 8 // 9)
    log.warning("too few file handles", max_connections=wanted, file_handles=handles, connections=most)
    return most


def headers_of(request: Request) -> Mapping[str, str]:
    """Return the headers of a request by name, the first of several of one name.

    Each look into starlette's own takes a microsecond, and a prediction takes six; to make this takes one.
    """
    found: dict[str, str] | None = request.scope.get("gradless.headers")
    if found is None:
        fields = reversed(request.scope["headers"])
        found = {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}
        request.scope["gradless.headers"] = found
    return found


async def read_body(request: Request, settings: Settings, deadline: float) -> bytes:
    """Return the whole body; never more than `max_body_bytes` is held. `deadline` is CLOCK_MONOTONIC seconds.

    Raises:
        Malformed: it is empty, or its Content-Length is no number.
        ClientLeft: before it was complete.
        TooLarge: seen in Content-Length before a byte is read, or at the limit.
        BodyTooSlow: it was not complete after `body_timeout_seconds`.
        DeadlineExceeded: it was not complete at the deadline.
    """
    _check_length(headers_of(request).get("content-length", "0"), settings.max_body_bytes)
    if request.scope.get("extensions") is WHOLE_BODY:
        body = await _read(request, settings.max_body_bytes)
    else:
        try:
            async with asyncio.timeout(settings.body_timeout_seconds):
                body = await by_deadline(
                    deadline, "while its body was being sent", _read(request, settings.max_body_bytes)
                )
        except TimeoutError:
            seconds = f"{settings.body_timeout_seconds:g}"
            raise BodyTooSlow(f"The body was not complete after {seconds} seconds.") from None
    if not body:
        raise Malformed(
            "The body is empty; send a picture, for example with curl --data-binary @photo.jpg, or an array."
        )
    return body


async def by_deadline(deadline: float, doing: str, work: Awaitable[T]) -> T:
    """Return what comes of `work`, which goes on in its thread, if it has one, when nobody waits any more.

    Raises:
        DeadlineExceeded: `deadline` (CLOCK_MONOTONIC seconds) came first; `doing` says what was going on.
    """
    limit = asyncio.timeout(deadline - time.monotonic())
    try:
        async with limit:
            return await work
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeadlineExceeded(f"The deadline of the request passed {doing}.") from None


async def _read(request: Request, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft("The client left before its body was complete.")
        chunk: bytes = message.get("body", b"")
        size = len(body) + len(chunk)
        if size > most:
            raise TooLarge(f"The body is over the limit of {most:,} bytes.")
        more = message.get("more_body", False)
        if not more and not body:
            return chunk  # all of it at once: no copy
        body += chunk
        if not more:
            return bytes(body)


def _check_length(stated: str, most: int) -> None:
    length = whole_number(stated, most + 1)
    if length is None:
        raise Malformed(f"Content-Length is {stated[:40]!r}; it must be a number of bytes.")
    if length > most:
        raise TooLarge(f"Content-Length is over the limit of {most:,} bytes.")
