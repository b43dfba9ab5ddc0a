"""Where the server is asked, and through what: TLS, IPv6, and settings for either that cannot be served."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

import httpx
import pytest

from tests.faults.test_http import GOOD, PICTURE, post, read_answer
from tests.faults.test_life_cycle import refused
from tests.support.certificates import make_certificate
from tests.support.models import make_trivial
from tests.support.server import Server
from tests.support.traffic import JPEG


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a model, a certificate and its key."""
    folder = tmp_path_factory.mktemp("listening")
    make_trivial(folder / "models")
    make_certificate(folder)
    return folder


@pytest.fixture(scope="module")
def encrypted(folder):
    files = ["--ssl-certfile", str(folder / "cert.pem"), "--ssl-keyfile", str(folder / "key.pem")]
    with Server(folder / "models", *files) as running:
        yield running.started()


def wrapped(server: Server) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(("127.0.0.1", server.port), timeout=20))


def test_a_slash_behind_a_path_leads_nobody_from_https_to_http(encrypted):
    assert encrypted.url.startswith("https://")
    for path in ("/health/ready/", "/health/live/", "/models/", "/"):
        browser = {"Accept": "text/html"}
        answer = httpx.get(encrypted.url + path, headers=browser, verify=False, follow_redirects=True)
        assert answer.status_code == 200
        assert [step.status_code for step in answer.history] == [307]
        assert answer.url.scheme == "https"


def test_a_request_over_tls_is_answered_like_any_other(encrypted):
    with wrapped(encrypted) as connection, connection.makefile("rb") as said:
        connection.sendall(post(b"Connection: Upgrade", b"Upgrade: h2c"))
        assert read_answer(said).status == 200
        connection.sendall(GOOD + b"HELLO\r\n\r\n")
        assert [read_answer(said).status for _ in range(2)] == [200, 400]


def test_a_client_that_speaks_no_tls_or_ends_it_leaves_no_line_of_a_bug(encrypted):
    with socket.create_connection(("127.0.0.1", encrypted.port), timeout=20) as connection:
        connection.sendall(GOOD)
        while connection.recv(65536):
            pass
    with wrapped(encrypted) as connection:
        connection.sendall(post())
        with contextlib.suppress(ssl.SSLError):  # the answer may have come before the end of TLS
            connection.unwrap()
    answer = httpx.post(f"{encrypted.url}/predict", content=PICTURE, headers=JPEG, verify=False)
    assert answer.status_code == 200
    assert not [line for line in encrypted.log if "Traceback" in line or "eof_received" in line or '"error"' in line]


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="the machine has no IPv6")
def test_an_ipv6_address_in_brackets_is_served(serve, folder):
    server = serve(folder / "models", "--host", "[::1]")
    assert server.url.startswith("http://[::1]:")
    assert httpx.post(f"{server.url}/predict", content=PICTURE, headers=JPEG).status_code == 200


def test_a_certificate_without_a_key_ends_the_start(folder):
    said = refused("--models", str(folder / "models"), "--port", "0", "--ssl-certfile", str(folder / "cert.pem"))
    assert "cert.pem: ssl_certfile: holds no private key" in said
    assert "--ssl-keyfile" in said


def test_a_host_that_cannot_be_listened_on_ends_the_start(folder):
    said = refused("--models", str(folder / "models"), "--port", "0", "--host", "unix:/run/gradless.sock")
    assert "settings: host: cannot listen on 'unix:/run/gradless.sock': Unix sockets are not served" in said
