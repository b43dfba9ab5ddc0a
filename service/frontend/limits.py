"""What is refused at the door: too many bytes, too slow a body, more connections than there are file handles."""

from __future__ import annotations

import asyncio
import contextlib
import resource

import structlog
from starlette.requests import Request

from service.errors import BodyTooSlow, ClientLeft, Malformed, TooLarge
from service.frontend.connection import WHOLE_BODY, refused_at_once
from service.settings import Settings

log = structlog.get_logger()

#: File handles that a front end keeps for itself: sockets to engines, metrics, a reading of its own process.
OWN_HANDLES = 40


def allowed_connections(wanted: int) -> int:
    """As many connections as wanted, or as there are file handles for; raises the soft limit to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS has another limit behind this one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    handles, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if handles == resource.RLIM_INFINITY or wanted + refused_at_once(wanted) <= handles - OWN_HANDLES:
        return wanted
    most = max(1, (handles - OWN_HANDLES - 1) * 8 // 9)
    log.warning("too few file handles", max_connections=wanted, file_handles=handles, connections=most)
    return most


async def read_body(request: Request, settings: Settings) -> bytes:
    """The whole body, or a refusal; never more than `max_body_bytes` is held.

    Raises:
        Malformed: it is empty, or its Content-Length is no number.
        ClientLeft: before it was complete.
        TooLarge: seen in Content-Length before a byte is read, or at the limit.
        BodyTooSlow: it was not complete after `body_timeout_seconds`.
    """
    _check_length(request.headers.get("content-length", "0"), settings.max_body_bytes)
    try:
        if request.scope.get("extensions") is WHOLE_BODY:
            body = await _read(request, settings.max_body_bytes)
        else:
            async with asyncio.timeout(settings.body_timeout_seconds):
                body = await _read(request, settings.max_body_bytes)
    except TimeoutError:
        raise BodyTooSlow(f"The body was not complete after {settings.body_timeout_seconds:g} seconds.") from None
    if not body:
        raise Malformed("The body is empty; send a picture, for example with curl --data-binary @photo.jpg.")
    return body


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
    if not stated.isdecimal():
        raise Malformed(f"Content-Length is {stated[:40]!r}; it must be a number of bytes.")
    if int(stated) > most:
        raise TooLarge(f"The body is {int(stated):,} bytes; at most {most:,} are allowed.")
