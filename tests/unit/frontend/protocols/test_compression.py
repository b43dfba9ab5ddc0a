"""Answers are coded for whoever asks for it, where it is worth it, and come back to the byte."""

from __future__ import annotations

import gzip
import zlib

import pytest

from service.frontend.protocols.compression import LEAST_BYTES, compressed
from service.tasks.outputs.answer import JSON, Written

BODY = b"0123456789" * 1000
PLAIN = Written(BODY, JSON, ((b"x", b"y"),))


@pytest.mark.parametrize(
    ("accepts", "coding"),
    [
        ("", ""),
        ("identity", ""),
        ("br, zstd", ""),
        ("*", ""),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "gzip"),
        ("deflate, gzip", "deflate"),
        ("br, gzip", "gzip"),
        ("gzip;q=0.5", "gzip"),
        ("gzip ; q=1.0", "gzip"),
        ("gzip;q=0.001", "gzip"),
        ("gzip;q=10", "gzip"),
        ("gzip;q=0", ""),
        ("gzip;q=0.0", ""),
        ("gzip; q=0.000", ""),
        ("gzip; Q = 0", ""),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip;q=0, deflate;q=0", ""),
        ("gzipped", ""),
        ("x-gzip", ""),
        (",,;,=", ""),
        ("q=0;gzip", ""),
    ],
)
def test_the_coding_is_the_first_that_is_accepted(accepts, coding):
    written = compressed(PLAIN, accepts)
    headers = dict(written.headers)
    assert headers.pop(b"content-encoding", b"").decode() == coding
    assert headers == {b"x": b"y"}
    assert written.media_type == JSON
    undo = {"gzip": gzip.decompress, "deflate": zlib.decompress, "": bytes}[coding]
    assert undo(written.body) == BODY
    assert bool(coding) is (len(written.body) < len(BODY))


@pytest.mark.parametrize("size", [0, 1, LEAST_BYTES - 1])
def test_a_small_answer_goes_out_as_it_is(size):
    small = Written(b"0" * size, JSON)
    assert compressed(small, "gzip") is small


def test_from_that_size_on_it_does_not():
    assert len(compressed(Written(b"0" * LEAST_BYTES, JSON), "gzip").body) < LEAST_BYTES
