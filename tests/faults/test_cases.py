"""Cases that public bug reports led to: pictures and requests that other servers and decoders stumbled over.

`tests/support/make_cases.py` writes them, with what each must get, into a folder of its own.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

import httpx
import pytest
from PIL import Image, PngImagePlugin

from tests.support.models import Direct, assert_right, direct, photographs

MAKER = Path(__file__).parents[1] / "support" / "make_cases.py"
JPEG = {"Content-Type": "image/jpeg"}

#: What is refused: the status, and words of the reason. Every other picture gets the answer that Pillow's pixels get.
REFUSED = {
    "twelve_bit.jpg": (422, "12 bits a sample"),
    "truncated.jpg": (422, "The JPEG is broken: Image is incomplete or truncated"),
    "no_eoi.jpg": (422, "The JPEG is broken: Image is incomplete or truncated"),
    "plain_size_64mp.jpg": (413, "8000 x 8000"),
    "hidden_size_64mp.jpg": (413, "8000 x 8000"),
    "scans_1mb.jpg": (413, "go over the pixels 1,201 times"),
}
#: Requests: the status, and the number of predictions or words of the reason.
REQUESTS = {
    "multipart_whole": (200, 2),
    "multipart_preamble": (200, 2),
    "multipart_not_closed": (400, "Part 1 of the multipart body (counting from 0) does not end"),
    "multipart_cut": (400, "Part 1 of the multipart body (counting from 0) does not end"),
    "json_wrapped_base64": (200, 1),
    "json_bom": (200, 1),
    "json_floats": (200, 1),
    "h2c_upgrade": (200, 1),
    "half_closed": (200, 1),
    "timeout_5000_digits": (200, 1),
    "timeout_trailing_space": (200, 1),
    "gzip": (200, 1),
    "malformed": (400, "not valid HTTP/1.1"),
}
#: Requests for health: the status, and the Location. None of them has a body.
HEALTH = {"head_ready": (200, None), "slash_behind_tls": (307, "../ready")}


def is_refused(name: str) -> tuple[int, str] | None:
    if name.startswith("other."):
        return 422, "not a picture in a supported format; send a JPEG, PNG, GIF or WebP file"
    return REFUSED.get(name)


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with `cases.json` and `pictures`."""
    folder = tmp_path_factory.mktemp("cases")
    maker = shutil.copy(MAKER, folder)
    subprocess.run([sys.executable, "-W", "ignore", maker], check=True, capture_output=True, timeout=120)
    return folder


def pictures(cases: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every picture that is in the list."""
    names = [case["name"] for case in json.loads((cases / "cases.json").read_text())]
    yield from ((name, file.read_bytes()) for name in names if (file := cases / "pictures" / name).is_file())


@pytest.fixture(scope="module")
def one(two_models: Path) -> Direct:
    return direct(two_models, "one")


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # Pillow, of the reference
def test_every_picture_of_the_cases_gets_what_it_should(server, one, cases, monkeypatch):
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 10_000_000)  # Pillow itself refuses two that are sound
    wrong, seen = [], 0
    for name, content in pictures(cases):
        seen += 1
        answer = httpx.post(f"{server.url}/predict?top_k=100", content=content, headers=JPEG, timeout=30)
        if refused := is_refused(name):
            status, words = refused
            if answer.status_code != status or words not in answer.json()["detail"]:
                wrong.append(f"{name}: {answer.status_code} {answer.text[:200]}")
            continue
        if name == "grey16.png":
            # Pillow clips sixteen bits of grey to white; here they are scaled, as those of colour are by Pillow too.
            one.known[content] = one.probabilities((cases / "pictures" / "grey.png").read_bytes())
        try:
            assert answer.status_code == 200, answer.text
            assert_right(answer.json(), one, content, tolerance=2e-4)
        except AssertionError as error:
            wrong.append(f"{name}: {str(error).splitlines()[0]}")
    assert not wrong
    assert seen > 80


@pytest.mark.parametrize("name", REQUESTS)
def test_every_request_of_the_cases_gets_what_it_should(server, cases, name):
    status, expected = REQUESTS[name]
    answer = exchange(server, (cases / "pictures" / f"{name}.http").read_bytes(), ends=name == "half_closed")
    assert answer.status == status
    assert answer.headers["X-Request-Id"]
    body = json.loads(answer.read())
    if status == 200:
        assert len(body["predictions"]) == expected
    else:
        assert expected in body["detail"]


@pytest.mark.parametrize("name", HEALTH)
def test_every_request_for_health_gets_what_it_should(server, cases, name):
    request = (cases / "pictures" / f"{name}.http").read_bytes()
    answer = exchange(server, request, method=request.split()[0].decode())
    assert (answer.status, answer.headers["Location"]) == HEALTH[name]
    assert answer.read() == b""


def exchange(server, request: bytes, ends: bool = False, method: str = "") -> HTTPResponse:
    """The answer to a request, after which the client may close its half of the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        answer = HTTPResponse(connection, method=method)
        answer.begin()
        return answer


def test_a_form_that_is_cut_short_is_refused_wherever_it_ends(server, cases):
    whole = (cases / "pictures" / "multipart_whole.http").read_bytes()
    head, _, body = whole.partition(b"\r\n\r\n")
    kind = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Type")).partition(b": ")[2].decode()
    for left in [*range(1, len(body), len(body) // 40), len(body) - len(b"--\r\n")]:
        answer = httpx.post(f"{server.url}/predict", content=body[:left], headers={"Content-Type": kind})
        assert answer.status_code == 400, f"{left} of {len(body)} bytes: {answer.text}"


def test_the_cases_leave_the_server_as_it_was(server, one):
    answer = httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG)
    assert_right(answer.json(), one, photographs()[0])


def test_the_pictures_of_these_tests_are_told_apart_when_they_are_turned(one, cases):
    def turned(orientation: int) -> bytes:
        return (cases / "pictures" / f"exif{orientation}.jpg").read_bytes()

    upright = one.probabilities(turned(1))
    for orientation in range(2, 9):
        assert (one.probabilities(turned(orientation)) - upright).abs().max() > 1e-3
    with Image.open(cases / "pictures" / "exif6_after_xmp.jpg") as file:
        assert file.getexif()[0x0112] == 6
