"""What is refused at the door: too many bytes, too slow a body."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from service.errors import BodyTooSlow, Malformed, TooLarge
from service.settings import Settings


async def read_body(request: Request, settings: Settings) -> bytes:
    """The whole body, or a refusal; never more than `max_body_bytes` is held.

    Raises:
        Malformed: it is empty, its Content-Length is no number, or the client left.
        TooLarge: seen in Content-Length before a byte is read, or at the limit.
        BodyTooSlow: it was not complete after `body_timeout_seconds`.
    """
    _check_length(request.headers.get("content-length", "0"), settings.max_body_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > settings.max_body_bytes:
                    raise TooLarge(f"The body is over the limit of {settings.max_body_bytes:,} bytes.")
    except TimeoutError:
        raise BodyTooSlow(f"The body was not complete after {settings.body_timeout_seconds:g} seconds.") from None
    except ClientDisconnect:
        raise Malformed("The client left before its body was complete.") from None
    if not body:
        raise Malformed("The body is empty; send a picture, for example with curl --data-binary @photo.jpg.")
    return bytes(body)


def _check_length(stated: str, most: int) -> None:
    if not stated.isdecimal():
        raise Malformed(f"Content-Length is {stated[:40]!r}; it must be a number of bytes.")
    if int(stated) > most:
        raise TooLarge(f"The body is {int(stated):,} bytes; at most {most:,} are allowed.")
