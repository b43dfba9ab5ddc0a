"""A body behind `Content-Encoding`: gzip and deflate, undone under the limit that the body itself has.

Sources: RFC 9110, 8.4 (codings, in the order they were applied); RFC 1952, 2.2 (gzip members); RFC 1950 and 1951.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable

from starlette.datastructures import Headers

from service.errors import Malformed, TooLarge, UnsupportedCoding
from service.frontend.limits import by_deadline

#: Codings that may be stacked: each is a pass over up to `max_body_bytes`.
MOST_CODINGS = 4
#: Members of one gzip body: each costs some microseconds, also an empty one of 20 bytes.
MOST_MEMBERS = 1000
#: Bytes given to zlib at once; it copies those that it has not used.
_PIECE = 65_536
_GZIP, _ZLIB, _RAW = 31, 15, -15


async def decode_body(headers: Headers, body: bytes, most: int, deadline: float) -> bytes:
    """Return a body without its codings, never over `most` bytes. `deadline` is CLOCK_MONOTONIC seconds.

    It is undone in a thread whatever its size: a thousandth of what comes out is enough to be sent.

    Raises:
        UnsupportedCoding: one that is neither gzip nor deflate.
        Malformed: broken, empty, or more than MOST_CODINGS.
        TooLarge: it unfolds to more than `most` bytes.
        DeadlineExceeded: it was not done by then.
    """
    decoders = _decoders(headers)
    if not decoders:
        return body
    return await by_deadline(
        deadline, "while its body was being decompressed", asyncio.to_thread(_undo, decoders, body, most)
    )


def _undo(decoders: list[Callable[[bytes, int], bytes]], body: bytes, most: int) -> bytes:
    for decoder in reversed(decoders):
        body = decoder(body, most)
    if not body:
        raise Malformed("The body is empty once it is decompressed.")
    return body


def _decoders(headers: Headers) -> list[Callable[[bytes, int], bytes]]:
    names = [name.strip().lower() for value in headers.getlist("content-encoding") for name in value.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    for name in names:
        if name not in _BY_NAME:
            raise UnsupportedCoding(f"Content-Encoding is {name[:80]!r}; send gzip, deflate or the body as it is.")
    if len(names) > MOST_CODINGS:
        raise Malformed(f"The body has {len(names)} content codings; at most {MOST_CODINGS} are undone.")
    return [_BY_NAME[name] for name in names]


def _gunzip(body: bytes, most: int) -> bytes:
    """Undo every member; zeros behind the last are padding, as to gzip itself."""
    whole, at, members = bytearray(), 0, 0
    while at < len(body) and (body[at] or body[at:].strip(b"\0")):
        members += 1
        if members > MOST_MEMBERS:
            raise Malformed(f"The gzip body has more than {MOST_MEMBERS} members.")
        at = _inflate(body, at, _GZIP, "gzip", whole, most)
    return bytes(whole)


def _undeflate(body: bytes, most: int) -> bytes:
    """Undo zlib's format, which the name stands for, or the bare one, which some clients send (RFC 9110, 8.4.1.2)."""
    try:
        return _one_stream(body, _ZLIB, most)
    except Malformed as refusal:
        try:
            return _one_stream(body, _RAW, most)
        except Malformed:
            raise refusal from None


def _one_stream(body: bytes, window: int, most: int) -> bytes:
    whole = bytearray()
    if _inflate(body, 0, window, "deflate", whole, most) < len(body):
        raise Malformed("The deflate body goes on behind its end.")
    return bytes(whole)


def _inflate(body: bytes, at: int, window: int, name: str, whole: bytearray, most: int) -> int:
    """Append to `whole` what the stream that begins at `at` holds; return where it ends.

    Raises:
        Malformed: it is broken, or does not end.
        TooLarge: `whole` would be over `most` bytes.
    """
    stream, pieces = zlib.decompressobj(window), memoryview(body)
    try:
        while at < len(body) and not stream.eof:
            piece: bytes | memoryview = pieces[at : at + _PIECE]
            at += len(piece)
            while piece and not stream.eof:
                whole += stream.decompress(piece, most + 1 - len(whole))
                if len(whole) > most:
                    raise TooLarge(f"The body is over the limit of {most:,} bytes once it is decompressed.")
                piece = stream.unconsumed_tail
    except zlib.error as error:
        raise Malformed(f"The {name} body is broken: {error}.") from error
    if not stream.eof:
        raise Malformed(f"The {name} body is broken: it was cut off.")
    return at - len(stream.unused_data)


_BY_NAME: dict[str, Callable[[bytes, int], bytes]] = {"gzip": _gunzip, "x-gzip": _gunzip, "deflate": _undeflate}
