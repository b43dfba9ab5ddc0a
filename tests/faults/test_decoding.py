"""Work that a small file asks for: it is bounded, and nobody waits for it past a deadline."""

from __future__ import annotations

import io
import socket
import threading

import httpx
import pytest
from PIL import Image

from tests.support import jpegs
from tests.support.models import make_trivial, photographs
from tests.support.server import Server

JPEG = {"Content-Type": "image/jpeg"}
MILLION = 1_000_000


@pytest.fixture(scope="module")
def trivial_server(tmp_path_factory):
    models = make_trivial(tmp_path_factory.mktemp("decoding") / "models")
    with Server(models, "--max-pixels", str(10 * MILLION)) as running:
        yield running.started()


BOMBS = {
    "scans of a large picture": lambda: jpegs.progressive(3000, 3000, 400),
    "scans of a small picture": lambda: jpegs.progressive(300, 300, 15_000),
    "scans of a thin picture": lambda: jpegs.progressive(8, 60_000, 3_000),
    "scans of one component each": lambda: jpegs.sequential(3000, 3000, 400),
    "comments between the scans": lambda: jpegs.progressive(3000, 3000, 400, jpegs.segment(0xFE, jpegs.EOI)),
    "restarts between the scans": lambda: jpegs.progressive(3000, 3000, 400, b"\xff\xd0\xff\xd7"),
    "scans without end": lambda: jpegs.progressive(3000, 3000, 400)[:-2],
    "scans behind a marker": lambda: jpegs.progressive(3000, 3000, 400, b"\xff\x02\xff\xff"),
    "scans of arithmetic coding": lambda: jpegs.progressive(3000, 3000, 20).replace(b"\xff\xc2", b"\xff\xca"),
    "segments without end": lambda: jpegs.SOI + jpegs.segment(0xFE, b"") * MILLION,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_i16_a_jpeg_that_asks_for_more_work_than_its_pixels_is_refused_and_others_do_not_wait(trivial_server, bomb):
    data = BOMBS[bomb]()
    answers: list[httpx.Response] = []
    asking = [threading.Thread(target=lambda: answers.append(post(trivial_server, data))) for _ in range(4)]
    for thread in asking:
        thread.start()
    beside = post(trivial_server, photographs()[0])
    for thread in asking:
        thread.join(30)
    assert beside.status_code == 200
    assert {answer.status_code for answer in answers} <= {413, 422}, [answer.text for answer in answers]
    assert len(answers) == 4


def post(server: Server, data: bytes, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/predict", content=data, headers=JPEG | headers, timeout=30)


def test_i16_on_both_sides_of_the_bound(trivial_server):
    side, most = 1600, 32 * 10 * MILLION // (1600 * 1600)
    assert post(trivial_server, jpegs.progressive(side, side, most)).status_code == 200
    refused = post(trivial_server, jpegs.progressive(side, side, most + 1))
    assert refused.status_code == 413
    assert f"{most} times are allowed at this size" in refused.json()["detail"]


@pytest.mark.parametrize("scans", [{}, {"progressive": True}])
def test_i16_a_photograph_of_as_many_pixels_as_allowed_is_answered(trivial_server, scans):
    file = io.BytesIO()
    with Image.open(io.BytesIO(photographs()[0])) as picture:
        picture.resize((3200, 3100)).save(file, "JPEG", **scans)
    assert post(trivial_server, file.getvalue()).status_code == 200


def large_png() -> bytes:
    """A small file that takes a tenth of a second and more to decode."""
    file = io.BytesIO()
    Image.new("RGB", (3200, 3100), "teal").save(file, "PNG")
    return file.getvalue()


def test_i17_a_deadline_is_kept_while_a_picture_is_being_decoded(trivial_server):
    answer = post(trivial_server, large_png(), **{"X-Timeout-Ms": "20"})
    assert answer.status_code == 504
    assert "while its pictures were being decoded" in answer.json()["detail"]
    assert post(trivial_server, large_png()).status_code == 200
    assert trivial_server.settled("gradless_requests_in_flight") == 0


def test_i17_a_deadline_is_kept_while_a_body_is_being_sent(trivial_server):
    lines = ["POST /predict HTTP/1.1", "Host: a", "Content-Type: image/jpeg", "X-Timeout-Ms: 100", "Content-Length: 9"]
    with socket.create_connection(("127.0.0.1", trivial_server.port), timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", "x"]).encode())
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 504")
    assert b"while its body was being sent" in answer


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=B"])
def test_i17_a_large_body_does_not_keep_others_waiting(trivial_server, kind):
    """It is read in a thread; on the loop, health would wait for it. What it says does not matter."""
    body = b'{"instances": [[' + b"[[1,2,3]]," * 1_500_000 if "json" in kind else b"--B\r\n\r\n" + b"\r\n--" * 4_000_000
    asking = threading.Thread(target=lambda: post(trivial_server, body, **{"Content-Type": kind}))
    asking.start()
    asked = 0
    while asking.is_alive():
        assert httpx.get(f"{trivial_server.url}/health/live", timeout=10).status_code == 200
        asked += 1
    asking.join()
    assert asked
