"""Raw requests at HTTP's edges: RFC 9110 and 9112, read to the byte, on real sockets."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import select
import signal
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import httpx
import pytest

from tests.support.models import make_trivial, photographs
from tests.support.server import Server, wait_for
from tests.support.traffic import JPEG

PICTURE = photographs()[0]
LIVE = b"/health/live HTTP/1.1\r\nHost: a\r\n"
GOOD = b"GET " + LIVE + b"\r\n"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def problem(self) -> dict[str, object]:
        """The body of a refusal, which has everything that a refusal has."""
        assert self.headers["content-type"] == "application/problem+json"
        found = json.loads(self.body)
        assert found["status"] == self.status
        assert found["request_id"] == self.headers["x-request-id"]
        return dict(found)


def read_answer(said: BinaryIO, bodiless: bool = False) -> Answer:
    line, headers = said.readline(), {}
    assert line.startswith(b"HTTP/1.1 "), line
    while (field := said.readline()) not in (b"\r\n", b""):
        name, _, value = field.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    body = b"" if bodiless else said.read(int(headers.get("content-length", "0")))
    return Answer(int(line.split()[1]), headers, body)


@contextmanager
def talk(server: Server) -> Iterator[tuple[socket.socket, BinaryIO]]:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    with connection, connection.makefile("rb") as said:
        yield connection, said


def post(*fields: bytes, body: bytes = PICTURE, path: bytes = b"/predict") -> bytes:
    kind = () if any(field.lower().startswith(b"content-type") for field in fields) else (b"Content-Type: image/jpeg",)
    lines = [b"POST %s HTTP/1.1" % path, b"Host: a", *kind, *fields, b"Content-Length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


def chunked(*fields: bytes, body: bytes, path: bytes = b"/predict") -> bytes:
    head = [b"POST %s HTTP/1.1" % path, b"Host: a", b"Content-Type: image/jpeg", *fields]
    return b"\r\n".join([*head, b"Transfer-Encoding: chunked", b"", body])


CHUNKS = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (PICTURE[:7], PICTURE[7:])) + b"0\r\n\r\n"
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CLIENT_HELLO = bytes.fromhex("16030102000100") + bytes(300)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    with Server(make_trivial(tmp_path_factory.mktemp("http") / "models"), "--keep-alive-seconds", "30") as running:
        yield running.started()


# What is refused, with the connection

REFUSED = {
    "a word": (b"HELLO\r\n\r\n", 400),
    "TLS": (CLIENT_HELLO, 400),
    "HTTP/2": (HTTP2, 400),
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n", 400),
    "SIP": (b"OPTIONS sip:a SIP/2.0\r\nHost: a\r\n\r\n", 400),
    "RTSP": (b"OPTIONS rtsp://a/b RTSP/1.0\r\nCSeq: 1\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /health/live\r\n\r\n", 400),
    "HTTP/0.9 with fields": (b"GET /health/live\r\nHost: a\r\n\r\n", 400),
    "HTTP/2.0 in words": (b"GET /health/live HTTP/2.0\r\nHost: a\r\n\r\n", 400),
    "HTTP/1.2": (b"GET /health/live HTTP/1.2\r\nHost: a\r\n\r\n", 400),
    "http/1.1": (b"GET /health/live http/1.1\r\nHost: a\r\n\r\n", 400),
    "an unknown method": (b"BREW " + LIVE + b"\r\n", 400),
    "a method in lower case": (b"get " + LIVE + b"\r\n", 400),
    "a tab after the method": (b"GET\t" + LIVE + b"\r\n", 400),
    "a space before the method": (b" GET " + LIVE + b"\r\n", 400),
    "a space in the target": (b"GET /health live HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target that is not ASCII": ("GET /ä HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 400),
    "a target without a slash": (b"GET health HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a fragment": (b"GET /health/live#a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "an asterisk": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "the server as a whole": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "another scheme": (b"GET ftp://a/health/live HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 400),
    "CONNECT, and what would go through": (b"CONNECT /predict HTTP/1.1\r\nHost: a\r\n\r\n" + CLIENT_HELLO, 400),
    "lines that end in LF": (b"GET /health/live HTTP/1.1\nHost: a\n\n", 400),
    "no Host": (b"GET /health/live HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET " + LIVE + b"Host: a\r\n\r\n", 400),
    "two Hosts, one after much": (b"GET " + LIVE + b"X-A: 1\r\nX-A: 2\r\nhost: b\r\n\r\n", 400),
    "a Host with a path": (b"GET /health/live HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "a Host with a user": (b"GET /health/live HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    "a space in a name": (b"GET " + LIVE + b"X A: 1\r\n\r\n", 400),
    "a space before the colon": (b"GET " + LIVE + b"X-A : 1\r\n\r\n", 400),
    "no name": (b"GET " + LIVE + b": 1\r\n\r\n", 400),
    "no colon": (b"GET " + LIVE + b"X-A\r\n\r\n", 400),
    "a name that is not ASCII": (b"GET " + LIVE + b"X-\xe4: 1\r\n\r\n", 400),
    "NUL in a value": (b"GET " + LIVE + b"X-A: a\0b\r\n\r\n", 400),
    "CR in a value": (b"GET " + LIVE + b"X-A: a\rb\r\n\r\n", 400),
    "a folded value": (b"GET " + LIVE + b"X-A: a\r\n b\r\n\r\n", 400),
    "a fold before the first field": (b"GET /health/live HTTP/1.1\r\n X-A: a\r\nHost: a\r\n\r\n", 400),
    "two lengths": (post(b"Content-Length: %d" % len(PICTURE)), 400),
    "two lengths in one": (post(b"Content-Length: 1, 1"), 400),
    "a length with a sign": (post(b"Content-Length: +1"), 400),
    "a negative length": (post(b"Content-Length: -1"), 400),
    "a length in hexadecimal": (post(b"Content-Length: 0x1"), 400),
    "a length of fifty digits": (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 50 + b"\r\n\r\n",
        400,
    ),
    "no length in the field": (b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
    "both lengths": (chunked(b"Content-Length: 3", body=CHUNKS), 400),
    "both lengths, the other way round": (post(b"Transfer-Encoding: chunked"), 400),
    "another transfer coding": (post().replace(b"Content-Length", b"Transfer-Encoding: gzip\r\nX-Length"), 400),
    "a transfer coding below chunked": (chunked(body=CHUNKS).replace(b": chunked", b": gzip, chunked"), 400),
    "chunked twice": (chunked(b"Transfer-Encoding: chunked", body=CHUNKS), 400),
    "chunked behind HTTP/1.0": (chunked(body=CHUNKS).replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    "another expectation": (post(b"Expect: 200-ok"), 417),
    "a long target": (b"GET /" + b"a" * 70_000, 414),
    "a long target that ends": (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "a long value": (b"GET " + LIVE + b"X-A: " + b"a" * 70_000, 431),
    "a long value that ends": (b"GET " + LIVE + b"X-A: " + b"a" * 200_000 + b"\r\n\r\n", 431),
    "a thousand fields": (b"GET " + LIVE + b"X-Name: of eighty bytes\r\n" * 4000 + b"\r\n", 431),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_http_is_refused_in_words_counted_and_the_connection_ends(plain, case):
    request, status = REFUSED[case]
    counted = plain.metric("gradless_requests_total", model="unknown", status=str(status))
    rejected = plain.metric("gradless_rejected_total", model="unknown")
    with talk(plain) as (connection, said):
        connection.sendall(request)
        answer = read_answer(said)
        assert said.read() == b""
    assert answer.status == status
    assert answer.headers["connection"] == "close"
    assert len(str(answer.problem()["detail"])) > 20
    assert plain.metric("gradless_requests_total", model="unknown", status=str(status)) == counted + 1
    assert plain.metric("gradless_rejected_total", model="unknown") == rejected + 1


def test_none_of_it_leaves_a_line_of_a_bug(plain):
    for request, _ in REFUSED.values():
        with talk(plain) as (connection, said):
            connection.sendall(request)
            said.read()
    assert not [line for line in plain.log if "Traceback" in line or "Exception" in line or "error" in line]


@pytest.mark.parametrize(("request_", "words"), [(CLIENT_HELLO, "https"), (HTTP2, "HTTP/1.1")], ids=["TLS", "HTTP/2"])
def test_another_protocol_is_called_by_its_name(plain, request_, words):
    with talk(plain) as (connection, said):
        connection.sendall(request_)
        detail = str(read_answer(said).problem()["detail"])
    assert detail.startswith(("TLS", "HTTP/2"))
    assert words in detail or "http://" in detail


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"zz\r\nab\r\n0\r\n\r\n", id="a size that is not a number"),
        pytest.param(b"2\r\nabcd\r\n0\r\n\r\n", id="more bytes than the size"),
        pytest.param(b"2\nab\n0\n\n", id="lines that end in LF"),
        pytest.param(b"f" * 17 + b"\r\nab", id="a size of seventeen digits"),
        pytest.param(b"2 \r\nab\r\n0\r\n\r\n", id="a space behind the size"),
        pytest.param(b"2\r\nab\r\n0\r\nContent-Length: 7\r\n\r\n", id="a length in the trailers"),
        pytest.param(b"2\r\nab\r\n0\r\nX A: 7\r\n\r\n", id="a trailer that is not a field"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_chunk_that_cannot_be_read_is_the_requests_refusal(plain, body, at_once):
    refused = plain.settled("gradless_requests_total", status="400")
    with talk(plain) as (connection, said):
        request = chunked(body=body)
        if at_once:
            connection.sendall(request)
        else:
            head, _, rest = request.partition(b"\r\n\r\n")
            connection.sendall(head + b"\r\n\r\n")
            wait_for(lambda: plain.metric("gradless_requests_in_flight") == 1, 10, "a request in flight")
            connection.sendall(rest)
        answer = read_answer(said)
        assert said.read() == b""
    assert answer.status == 400
    assert "not valid HTTP/1.1" in str(answer.problem()["detail"])
    assert answer.headers["connection"] == "close"
    assert plain.settled("gradless_requests_total", status="400") == refused + 1
    assert plain.settled("gradless_requests_in_flight") == 0


def send_until_told(connection: socket.socket, more: bytes) -> None:
    """Send on until the server says something; fails when it takes a hundred times what a head may be."""
    for _ in range(6_500_000 // len(more)):
        if select.select([connection], [], [], 0)[0]:
            return
        connection.sendall(more)
    raise AssertionError("the server read on")


@pytest.mark.parametrize(
    ("begin", "more"),
    [(b"0\r\n", b"X-Name: of eighty bytes\r\n" * 40), (b"0\r\nX-A: ", b"a" * 1000), (b"1;", b"a" * 1000)],
    ids=["trailers", "a trailer", "a chunk's extension"],
)
def test_framing_that_goes_on_without_a_byte_of_a_body_is_refused(plain, begin, more):
    with talk(plain) as (connection, said):
        connection.sendall(chunked(body=begin))
        send_until_told(connection, more)
        assert read_answer(said).status == 431


def test_an_endless_head_behind_a_request_that_is_being_answered_is_refused_too(plain):
    engine = plain.engine()
    os.kill(engine, signal.SIGSTOP)
    try:
        with talk(plain) as (connection, said):
            connection.sendall(chunked(body=CHUNKS) + b"GET /health/live HTTP/1.1\r\nX-A: ")
            connection.sendall(b"a" * 6_500_000)
            os.kill(engine, signal.SIGCONT)
            assert [read_answer(said).status for _ in range(2)] == [200, 431]
    finally:
        os.kill(engine, signal.SIGCONT)


# What is answered, and the connection goes on

UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
WEBSOCKET = (b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
ANSWERED = {
    "h2c": (post(*UPGRADE), 200),
    "h2c and chunks": (chunked(*UPGRADE, body=CHUNKS), 200),
    "h2c and nothing to send": (b"GET " + LIVE + b"\r\n".join([*UPGRADE, b"", b""]), 200),
    "a WebSocket": (b"GET " + LIVE + b"\r\n".join([*WEBSOCKET, b"", b""]), 200),
    "TLS within HTTP": (post(b"Upgrade: TLS/1.2", b"Connection: upgrade"), 200),
    "several upgrades in two fields": (post(b"Upgrade: a/1", b"Connection: upgrade", b"Upgrade: b"), 200),
    "an upgrade that Connection does not name": (post(b"Upgrade: h2c"), 200),
    "an upgrade that nothing is named for": (post(b"Connection: upgrade"), 200),
    "empty lines before it": (b"\r\n\r\n" + GOOD, 200),
    "a target with a host": (b"GET http://b.example:80/health/live HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    "a target with a host and nothing more": (b"GET http://b.example HTTP/1.1\r\nHost: a\r\n\r\n", 307),
    "a scheme in upper case": (b"GET HTTPS://b/health/live?a=b HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    "an empty Host": (b"GET /health/live HTTP/1.1\r\nHost:\r\n\r\n", 200),
    "an IPv6 Host": (b"GET /health/live HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", 200),
    "names in any case": (post().replace(b"Content-Length", b"cOnTeNt-LeNgTh"), 200),
    "white space around values": (post(b"X-Timeout-Ms: \t 5000 \t ").replace(b"image/jpeg", b" image/jpeg \t"), 200),
    "white space behind a length": (post().replace(b"Content-Length", b"X-A:\t\r\nContent-Length"), 200),
    "bytes over 127 in a value": (b"GET " + LIVE + b"X-A: \xff\xe4\r\n\r\n", 200),
    "a timeout of 5,000 digits": (post(b"X-Timeout-Ms: " + b"9" * 5000), 200),
    "a timeout behind 5,000 zeros": (post(b"X-Timeout-Ms: " + b"0" * 5000 + b"9999"), 200),
    "a timeout of zeros": (post(b"X-Timeout-Ms: " + b"0" * 5000), 400),
    "a timeout with a sign": (post(b"X-Timeout-Ms: +5000"), 400),
    "a timeout in other digits": (post("X-Timeout-Ms: ²".encode("latin-1")), 400),
    "a length behind 5,000 zeros": (post().replace(b"Content-Length: ", b"Content-Length: " + b"0" * 5000), 200),
    "5,000 digits of classes": (post(path=b"/predict?top_k=" + b"9" * 5000), 422),
    "other digits of classes": (post(path=b"/predict?top_k=%D9%A3"), 422),
    "chunks": (chunked(body=CHUNKS), 200),
    "chunks in another case": (chunked(body=CHUNKS).replace(b": chunked", b": Chunked"), 200),
    "extensions of chunks": (chunked(body=CHUNKS.replace(b"\r\n", b';a="b"\r\n', 1)), 200),
    "trailers": (chunked(body=CHUNKS[:-2] + b"X-Timeout-Ms: none\r\n\r\n"), 200),
    "no body of a POST": (b"POST /predict HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a body of a GET": (b"GET " + LIVE + b"Content-Length: 5\r\n\r\nhello", 200),
    "a method of others": (b"PROPFIND " + LIVE + b"\r\n", 405),
    "OPTIONS": (b"OPTIONS /predict HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "a slash behind health": (b"GET /health/ready/ HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n", 307),
    "a slash behind predict": (post(path=b"/predict/"), 307),
    "a slash behind a model's": (post(path=b"/models/trivial/predict/"), 307),
    "two slashes behind it": (b"GET /health/live// HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    "gzip": (post(b"Content-Encoding: gzip", body=gzip.compress(PICTURE)), 200),
    "gzip by its old name": (post(b"Content-Encoding: X-GZIP", body=gzip.compress(PICTURE)), 200),
    "gzip in chunks": (
        chunked(b"Content-Encoding: gzip", body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(z := gzip.compress(PICTURE)), z)),
        200,
    ),
    "deflate": (post(b"Content-Encoding: deflate", body=zlib.compress(PICTURE)), 200),
    "deflate without its frame": (post(b"Content-Encoding: deflate", body=zlib.compress(PICTURE, wbits=-15)), 200),
    "identity": (post(b"Content-Encoding: identity"), 200),
    "no coding in the field": (post(b"Content-Encoding:"), 200),
    "codings in the order they were applied": (
        post(b"Content-Encoding: deflate, gzip", body=gzip.compress(zlib.compress(PICTURE))),
        200,
    ),
    "codings in two fields": (
        post(b"Content-Encoding: deflate", b"Content-Encoding: gzip", body=gzip.compress(zlib.compress(PICTURE))),
        200,
    ),
    "codings in the wrong order": (
        post(b"Content-Encoding: gzip, deflate", body=gzip.compress(zlib.compress(PICTURE))),
        400,
    ),
    "gzip that is not": (post(b"Content-Encoding: gzip"), 400),
    "gzip that is cut off": (post(b"Content-Encoding: gzip", body=gzip.compress(PICTURE)[:-9]), 400),
    "another coding": (post(b"Content-Encoding: br"), 415),
}


@pytest.mark.parametrize("case", ANSWERED)
@pytest.mark.parametrize("piece", [1_000_000, 97], ids=["at once", "in pieces"])
def test_what_is_http_is_answered_and_so_is_the_next_request(plain, case, piece):
    request, status = ANSWERED[case]
    with talk(plain) as (connection, said):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(request), piece):
            connection.sendall(request[at : at + piece])
        answer = read_answer(said)
        assert answer.status == status, answer
        if status >= 400:
            answer.problem()
        if status >= 300 and piece < len(request) and answer.headers.get("connection") == "close":
            return  # answered before its body was there, which nobody then reads
        assert "connection" not in answer.headers
        connection.sendall(post())
        assert len(json.loads(read_answer(said).body)["predictions"]) == 1


def test_an_upgrade_is_ignored_wherever_its_bytes_are_split(plain):
    request = b"POST /predict?top_k=0 HTTP/1.1\r\nHost: a\r\n" + b"\r\n".join(
        [*UPGRADE, b"Content-Length: 3", b"", b"abc"]
    )
    with talk(plain) as (connection, said):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(1, len(request)):
            connection.sendall(request[:at])
            connection.sendall(request[at:])
            assert read_answer(said).status == 422


def test_requests_in_a_row_are_answered_in_their_order(plain):
    requests = [GOOD, post(*UPGRADE), b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n" + post(), chunked(body=CHUNKS)]
    with talk(plain) as (connection, said):
        connection.sendall(b"".join(requests))
        assert [read_answer(said).status for _ in requests] == [200, 200, 404, 200, 200]


def test_requests_before_one_that_is_not_http_have_their_answers(plain):
    with talk(plain) as (connection, said):
        connection.sendall(chunked(body=CHUNKS) + GOOD + b"HELLO\r\n\r\n")
        assert [read_answer(said).status for _ in range(3)] == [200, 200, 400]
        assert said.read() == b""


def test_a_body_longer_than_its_length_is_refused_whole(plain):
    with talk(plain) as (connection, said):
        connection.sendall(GOOD + post().replace(b"Content-Length: ", b"Content-Length: 1\r\nX-Was: "))
        assert [read_answer(said).status for _ in range(2)] == [200, 400]
        assert said.read() == b""


def test_a_client_of_http_1_0_is_answered_and_never_told_to_continue(plain):
    with talk(plain) as (connection, said):
        connection.sendall(post(b"Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert read_answer(said).status == 200
        assert said.read() == b""


def test_a_client_that_expects_to_continue_is_told_to(plain):
    head, _, body = post(b"Expect: 100-Continue").partition(b"\r\n\r\n")
    with talk(plain) as (connection, said):
        connection.sendall(head + b"\r\n\r\n")
        assert [said.readline(), said.readline()] == [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]
        connection.sendall(body)
        assert read_answer(said).status == 200


# HEAD and the methods of a path

READ = ["/health/live", "/health/ready", "/models", "/models/trivial", "/models/trivial/proof", "/metrics"]


@pytest.mark.parametrize(
    "path", [*READ, "/", "/docs", "/openapi.json", "/none", "/models/none", "/health/live/", "/none/"]
)
def test_head_is_get_without_the_body(plain, path):
    shown = httpx.get(plain.url + path)
    with talk(plain) as (connection, said):
        connection.sendall(b"HEAD %s HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n" % path.encode())
        answer = read_answer(said, bodiless=True)
        assert answer.status == shown.status_code
        assert (
            answer.headers["content-type"] == shown.headers["content-type"] if "content-type" in shown.headers else True
        )
        assert set(answer.headers) == set(shown.headers)
        connection.sendall(GOOD)
        assert json.loads(read_answer(said).body) == {"status": "live"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("HEAD", "/predict", {"POST"}),
        ("GET", "/predict", {"POST"}),
        ("PUT", "/models/trivial/predict", {"POST"}),
        ("OPTIONS", "/models/trivial/predict", {"POST"}),
        ("POST", "/health/live", {"GET", "HEAD"}),
        ("DELETE", "/models", {"GET", "HEAD"}),
        ("TRACE", "/metrics", {"GET", "HEAD"}),
        ("DELETE", "/models/reload", {"GET", "HEAD", "POST"}),
        ("GET", "/models/trivial/reload", {"POST"}),
        ("POST", "/docs", {"GET", "HEAD"}),
    ],
)
def test_a_method_that_a_path_lacks_is_405_with_those_that_it_has(plain, method, path, allowed):
    answer = httpx.request(method, plain.url + path)
    assert answer.status_code == 405
    assert set(answer.headers["Allow"].split(", ")) == allowed
    if method != "HEAD":
        assert answer.json()["type"] == "urn:gradless:problem:method_not_allowed"


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/health/ready/", "../ready"),
        ("/predict/?top_k=1&a=b", "../predict?top_k=1&a=b"),
        ("/models/tri%76ial/proof/", "../proof"),
        ("/models/a:b/", "../a:b"),
        ("/docs/", "../docs"),
    ],
)
def test_a_slash_too_many_leads_to_the_path_wherever_the_server_is_seen(plain, path, place):
    answer = httpx.get(plain.url + path)
    assert (answer.status_code, answer.headers["Location"]) == (307, place)
    proxied = httpx.URL("https://api.example/prefix" + path).join(place)
    assert str(proxied) == "https://api.example/prefix" + path.replace("/?", "?").removesuffix("/")


@pytest.mark.parametrize("path", ["/none/", "/health/", "//", "//evil.example/", "/health/live//", "/health/live%2F"])
def test_a_slash_behind_nothing_leads_nowhere(plain, path):
    with talk(plain) as (connection, said):
        connection.sendall(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode())
        answer = read_answer(said)
    assert answer.status == 404
    answer.problem()


def test_a_page_of_another_origin_is_told_of_the_setting(plain):
    asks = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    answer = httpx.options(f"{plain.url}/predict", headers=asks)
    assert answer.status_code == 405
    assert "--cors-origins" in answer.json()["detail"]


def test_another_coding_is_told_which_are_taken(plain):
    answer = httpx.post(f"{plain.url}/predict", content=PICTURE, headers=JPEG | {"Content-Encoding": "zstd"})
    assert answer.status_code == 415
    assert answer.headers["Accept-Encoding"] == "gzip, deflate"


@pytest.mark.alone
def test_a_body_that_unfolds_beyond_the_limit_is_413_and_is_not_kept(serve, tmp_path):
    server = serve(make_trivial(tmp_path / "models"), "--max-body-bytes", "1000000")
    bomb = gzip.compress(bytes(900_000_000), 9)
    assert len(bomb) < 1_000_000
    before = server.pss()
    answer = httpx.post(f"{server.url}/predict", content=bomb, headers=JPEG | {"Content-Encoding": "gzip"}, timeout=30)
    assert answer.status_code == 413
    assert server.pss() - before < 100_000_000
    assert httpx.post(f"{server.url}/predict", content=PICTURE, headers=JPEG).status_code == 200


# Clients that have said their last


@pytest.mark.parametrize("request_", [post(), chunked(body=CHUNKS), GOOD, post(*UPGRADE), b"HELLO\r\n\r\n"])
def test_a_client_that_has_closed_its_half_gets_its_answer_and_the_end(plain, request_):
    with talk(plain) as (connection, said):
        connection.sendall(request_)
        connection.shutdown(socket.SHUT_WR)
        answer = read_answer(said)
        assert said.read() == b""
    assert answer.status == (400 if request_.startswith(b"HELLO") else 200)


def test_requests_in_a_row_before_the_half_was_closed_have_their_answers(plain):
    with talk(plain) as (connection, said):
        connection.sendall(post() + GOOD + post())
        connection.shutdown(socket.SHUT_WR)
        assert [read_answer(said).status for _ in range(3)] == [200, 200, 200]
        assert said.read() == b""


def test_a_client_that_waits_long_with_its_half_closed_gets_its_answer(plain):
    """It is sent `100 Continue` meanwhile, which is how the server knows that it is there."""
    engine = plain.engine()
    os.kill(engine, signal.SIGSTOP)
    try:
        with talk(plain) as (connection, said):
            connection.sendall(post())
            connection.shutdown(socket.SHUT_WR)
            while (line := said.readline()) in (b"HTTP/1.1 100 Continue\r\n", b"\r\n"):
                os.kill(engine, signal.SIGCONT)
            assert line == b"HTTP/1.1 200 OK\r\n"
    finally:
        os.kill(engine, signal.SIGCONT)


@pytest.mark.parametrize("how", ["reset", "closed", "half closed, then closed"])
def test_a_client_that_has_gone_frees_its_place(plain, how):
    left = plain.settled("gradless_requests_total", status="499")
    engine = plain.engine()
    os.kill(engine, signal.SIGSTOP)
    try:
        connection = socket.create_connection(("127.0.0.1", plain.port), timeout=20)
        connection.sendall(post())
        wait_for(lambda: plain.metric("gradless_requests_in_flight") == 1, 10, "a request in flight")
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how != "closed":
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.close()
        wait_for(lambda: plain.metric("gradless_requests_in_flight") == 0, 5, "nobody in flight")
    finally:
        os.kill(engine, signal.SIGCONT)
    assert plain.settled("gradless_requests_total", status="499") == left + 1


def test_the_list_is_long_enough():
    assert len(REFUSED) + len(ANSWERED) > 30
    assert len({request for request, _ in itertools.chain(REFUSED.values(), ANSWERED.values())}) >= 100
