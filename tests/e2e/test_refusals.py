"""What cannot be answered is refused with a status, words, and what would be right."""

from __future__ import annotations

import io
import json
import socket
import zlib

import httpx
import pytest
from PIL import Image

from tests.support.models import photographs
from tests.support.server import Server

JPEG = {"Content-Type": "image/jpeg"}


def bomb(side: int = 50_000) -> bytes:
    """A PNG of side x side in a few bytes: a true header and almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = side.to_bytes(4) + side.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def instances(value: object) -> bytes:
    return json.dumps({"instances": value}).encode()


JSON = {"Content-Type": "application/json"}
REFUSALS = {
    "empty body": (b"", JPEG, "", 400, "empty"),
    "random bytes": (bytes(range(256)) * 9, JPEG, "", 422, "send a JPEG, PNG, GIF or WebP"),
    "truncated JPEG": (photographs()[0][: len(photographs()[0]) // 2], JPEG, "", 422, "broken"),
    "truncated PNG": (png(300, 300)[:-60], {"Content-Type": "image/png"}, "", 422, "broken"),
    "decompression bomb": (bomb(), {"Content-Type": "image/png"}, "", 413, "50000 x 50000"),
    "a line": (png(1, 200_000), {"Content-Type": "image/png"}, "", 422, "shorter side"),
    "a form": (b"a=1", {"Content-Type": "application/x-www-form-urlencoded"}, "", 415, "image/jpeg"),
    "no JSON": (b'{"instances": [', JSON, "", 400, "not valid JSON"),
    "NaN": (b'{"instances": [[[[NaN, 0, 0]]]]}', JSON, "", 400, "not valid JSON"),
    "another key": (b'{"inputs": []}', JSON, "", 422, "instances"),
    "no instances": (instances([]), JSON, "", 422, "no picture"),
    "a number over 255": (instances([[[[256, 0, 0]]]]), JSON, "", 422, "255"),
    "fractions": (instances([[[[0.5, 0, 0]]]]), JSON, "", 422, "whole numbers"),
    "ragged rows": (instances([[[[1, 2, 3]], [[1, 2, 3], [1, 2, 3]]]]), JSON, "", 422, "(H, W, 3)"),
    "two numbers a pixel": (instances([[[[1, 2]]]]), JSON, "", 422, "(H, W, 3)"),
    "deep nesting": (b'{"instances":' + b"[" * 100_000 + b"]" * 100_000 + b"}", JSON, "", (400, 422), ""),
    "bad base64": (instances([{"b64": "%%%"}]), JSON, "", 422, "base64"),
    "too many instances": (instances([{"b64": ""}] * 65), JSON, "", 413, "at most 64"),
    "no boundary": (b"x", {"Content-Type": "multipart/form-data"}, "", 400, "boundary"),
    "top_k of 0": (photographs()[0], JPEG, "?top_k=0", 422, "from 1 to 100"),
    "top_k of abc": (photographs()[0], JPEG, "?top_k=abc", 422, "from 1 to 100"),
    "top_k too large": (photographs()[0], JPEG, "?top_k=1000000000", 422, "from 1 to 100"),
    "two of top_k": (photographs()[0], JPEG, "?top_k=1&top_k=1", 422, "twice"),
    "topk": (photographs()[0], JPEG, "?topk=3", 422, "'topk' is not a query parameter; did you mean ?top_k=5?"),
    "a model in the query": (photographs()[0], JPEG, "?model=two", 422, "POST /models/two/predict"),
    "a model in a header": (photographs()[0], JPEG | {"X-Model": "two"}, "", 422, "POST /models/two/predict"),
    "a timeout of seconds": (photographs()[0], JPEG | {"X-Timeout-S": "3"}, "", 422, "X-Timeout-Ms, in milliseconds"),
    "top_k unlike itself": (b'{"instances": [[[[1, 2, 3]]]], "top_k": 3}', JSON, "?top_k=2", 422, "give it once"),
    "timeout in words": (photographs()[0], JPEG | {"X-Timeout-Ms": "soon"}, "", 400, "milliseconds"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_gets_its_status_and_words_that_help(server, case):
    body, headers, query, status, words = REFUSALS[case]
    answer = httpx.post(f"{server.url}/predict{query}", content=body, headers=headers)
    assert answer.status_code in (status if isinstance(status, tuple) else (status,)), answer.text
    problem = answer.json()
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "detail", "request_id"}
    assert problem["status"] == answer.status_code
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert words in problem["detail"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("POST", "/models/none/predict", 404),
        ("POST", "/models/..%2f..%2fetc/predict", 404),
        ("GET", "/models/none", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/" + "x" * 9000, 404),
    ],
)
def test_wrong_methods_and_paths_are_problems_too(server, method, path, status):
    answer = httpx.request(method, server.url + path, content=b"x", headers=JPEG)
    assert answer.status_code == status
    assert answer.json()["status"] == status


def test_one_bad_picture_of_several_is_named(server):
    files = [("file", (f"{n}.jpg", picture)) for n, picture in enumerate(photographs()[:8])]
    files[5] = ("file", ("5.jpg", b"no picture"))
    answer = httpx.post(f"{server.url}/predict", files=files)
    assert answer.status_code == 422
    assert "Picture 5 of 8" in answer.json()["detail"]


def exchange(server, head: str, *chunks: bytes) -> bytes:
    """What the server says to hand-written HTTP, up to its end or a second of silence."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.encode())
        for chunk in chunks:
            connection.sendall(chunk)
        return connection.recv(65536)


def test_a_body_over_the_limit_is_refused_from_its_content_length_alone(server):
    head = "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: 20000001\r\n\r\n"
    assert exchange(server, head).startswith(b"HTTP/1.1 413")


@pytest.fixture(scope="module")
def strict(two_models):
    """A server with little room and little patience."""
    limits = ["--max-body-bytes", "30000", "--body-timeout-seconds", "1", "--max-queued-examples", "4"]
    with Server(two_models, "--default-model", "one", *limits) as running:
        yield running.started()


def test_a_chunked_body_is_refused_at_the_limit(strict):
    head = "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"4650\r\n" + b"x" * 18_000 + b"\r\n"
    assert exchange(strict, head, chunk, chunk).startswith(b"HTTP/1.1 413")


def test_a_slow_body_is_refused_in_time_and_a_short_deadline_is_kept(strict):
    head = "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: 100\r\n\r\n"
    assert exchange(strict, head, b"x").startswith(b"HTTP/1.1 408")
    answer = httpx.post(f"{strict.url}/predict", content=photographs()[0], headers=JPEG | {"X-Timeout-Ms": "1"})
    assert answer.status_code == 504
    assert httpx.post(f"{strict.url}/predict", content=photographs()[0], headers=JPEG).status_code == 200


def test_a_full_queue_refuses_and_says_when_to_come_back(strict):
    files = [("file", (f"{n}.jpg", min(photographs(), key=len))) for n in range(5)]
    answer = httpx.post(f"{strict.url}/predict", files=files)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert strict.metric("gradless_rejected_total", model="one", reason="overloaded") == 1
    assert httpx.post(f"{strict.url}/predict", files=files[:4]).status_code == 200
