"""A coded body is undone to the byte, or refused; never beyond its limit."""

from __future__ import annotations

import asyncio
import gzip
import random
import time
import tracemalloc
import zlib

import pytest
from starlette.datastructures import Headers

from service.errors import DeadlineExceeded, Malformed, TooLarge, UnsupportedCoding
from service.frontend import codings
from service.frontend.codings import decode_body

BODY = random.Random(1).randbytes(300_000) + bytes(300_000)
RAW = zlib.compress(BODY, wbits=-15)
MOST = 1_000_000


def decoded(body: bytes, *codings: str, most: int = MOST, seconds: float = 30.0) -> bytes:
    headers = Headers(raw=[(b"content-encoding", coding.encode()) for coding in codings])
    return asyncio.run(decode_body(headers, body, most, time.monotonic() + seconds))


@pytest.mark.parametrize(
    ("body", "codings"),
    [
        (BODY, []),
        (BODY, ["identity"]),
        (BODY, [" , identity ,"]),
        (gzip.compress(BODY, mtime=0), ["gzip"]),
        (gzip.compress(BODY, mtime=0), [" GZip "]),
        (gzip.compress(BODY, mtime=0), ["x-gzip"]),
        (gzip.compress(BODY, 0, mtime=0), ["gzip"]),
        (gzip.compress(BODY[:1], mtime=0) + gzip.compress(b"") + gzip.compress(BODY[1:]), ["gzip"]),
        (gzip.compress(BODY, mtime=0) + bytes(512), ["gzip"]),
        (zlib.compress(BODY), ["deflate"]),
        (RAW, ["deflate"]),
        (gzip.compress(zlib.compress(BODY)), ["deflate, gzip"]),
        (gzip.compress(zlib.compress(BODY)), ["deflate", "identity", "gzip"]),
        (gzip.compress(gzip.compress(gzip.compress(gzip.compress(BODY, mtime=0)))), ["gzip,gzip,gzip,gzip"]),
    ],
)
def test_what_was_coded_comes_back(body, codings):
    assert decoded(body, *codings) == BODY


FULL = gzip.compress(BODY, mtime=0)


@pytest.mark.parametrize(
    ("body", "coding", "refusal"),
    [
        (BODY, "gzip", Malformed),
        (BODY, "deflate", Malformed),
        (b"\0", "gzip", Malformed),
        (bytes(100), "deflate", Malformed),
        (FULL[:-1], "gzip", Malformed),
        (FULL[:1], "gzip", Malformed),
        (FULL + b"more", "gzip", Malformed),
        (FULL + bytes(8) + b"more", "gzip", Malformed),
        (FULL[:-8] + bytes(8), "gzip", Malformed),  # another checksum
        (zlib.compress(BODY)[:-1], "deflate", Malformed),
        (zlib.compress(BODY) + b"more", "deflate", Malformed),
        (RAW[:-1], "deflate", Malformed),
        (gzip.compress(b"", mtime=0), "gzip", Malformed),
        (FULL, "gzip,gzip,gzip,gzip,gzip", Malformed),
        (FULL, "br", UnsupportedCoding),
        (FULL, "gzip, zstd", UnsupportedCoding),
        (FULL, "gzip;q=1", UnsupportedCoding),
        (FULL, "compress", UnsupportedCoding),
        (FULL, "*", UnsupportedCoding),
    ],
)
def test_anything_else_is_refused(body, coding, refusal):
    with pytest.raises(refusal) as refused:
        decoded(body, coding)
    assert type(refused.value) is refusal


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_it_is_bounded_to_the_byte(coding):
    body = gzip.compress(BODY, mtime=0) if coding == "gzip" else zlib.compress(BODY)
    assert decoded(body, coding, most=len(BODY)) == BODY
    with pytest.raises(TooLarge):
        decoded(body, coding, most=len(BODY) - 1)


def test_the_bound_holds_within_a_stack_too():
    bomb = gzip.compress(gzip.compress(bytes(10 * MOST), 9), 9)
    with pytest.raises(TooLarge):
        decoded(bomb, "gzip, gzip")


def test_no_more_than_the_bound_is_ever_held():
    bomb = gzip.compress(bytes(50 * MOST), 9)
    assert len(bomb) < codings._PIECE  # all of it is given to zlib at once
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            decoded(bomb, "gzip")
        assert tracemalloc.get_traced_memory()[1] < 5 * MOST
    finally:
        tracemalloc.stop()


def test_members_are_counted():
    member = gzip.compress(b"a", mtime=0)
    assert decoded(member * codings.MOST_MEMBERS, "gzip") == b"a" * codings.MOST_MEMBERS
    with pytest.raises(Malformed, match="members"):
        decoded(member * (codings.MOST_MEMBERS + 1), "gzip")


def test_the_event_loop_goes_on_and_a_deadline_ends_the_wait():
    async def run() -> int:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        turning = asyncio.get_running_loop().create_task(turn())
        headers = Headers(raw=[(b"content-encoding", b"gzip")])
        await decode_body(headers, gzip.compress(bytes(50_000_000), 9), 100_000_000, time.monotonic() + 30)
        turning.cancel()
        return turns

    assert asyncio.run(run()) > 10
    with pytest.raises(DeadlineExceeded):
        decoded(FULL, "gzip", seconds=-1)


def test_a_damaged_body_is_refused_and_nothing_else_is_raised():
    chance, refused = random.Random(2), 0
    for body, coding in ((FULL, "gzip"), (zlib.compress(BODY), "deflate"), (RAW, "deflate")):
        for _ in range(40):
            at = chance.randrange(len(body))
            damaged = body[:at] + bytes([body[at] ^ 1 << chance.randrange(8)]) + body[at + 1 :]
            try:
                assert decoded(damaged, coding) == BODY or body is RAW  # which has no checksum
            except (Malformed, TooLarge):
                refused += 1
    assert refused > 60
