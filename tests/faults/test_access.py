"""Rows S2, S6 and E13 of the fault matrix: who may ask what, where, and with how few file handles."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from service.frontend import keys
from tests.faults.test_life_cycle import refused
from tests.support.models import make_trivial, photographs
from tests.support.server import Server, wait_for
from tests.support.traffic import JPEG, Traffic

KEY = "sesame-0123456789"


@pytest.fixture
def trivial(tmp_path):
    return make_trivial(tmp_path / "models")


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory):
    return tmp_path_factory.mktemp("keys") / "keys"


def write_keys(file, *more: str) -> None:
    """Two keys that always hold, and more."""
    file.write_text("\n".join([f"# two\n{KEY}\nanother-key", *more, ""]))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, keys_file):
    """A server with keys, an access log to look for them in, and, for row E13, hardly a file handle."""
    write_keys(keys_file, "old-key")
    models = make_trivial(tmp_path_factory.mktemp("guarded") / "models")
    with Server(models, "--keys-file", str(keys_file), "--access-log", "--log-level", "debug") as running:
        if sys.platform == "linux":
            resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (64, 64))  # before it has a child
        yield running.started()
        assert running.stop() == 0


def ask(server: Server, authorization: str | None, path: str = "/predict") -> httpx.Response:
    headers = JPEG | ({"Authorization": authorization} if authorization is not None else {})
    return httpx.post(server.url + path, content=photographs()[0], headers=headers)


@pytest.mark.parametrize("path", ["/predict", "/models/trivial/predict"])
def test_s2_either_key_opens(guarded, path):
    assert ask(guarded, f"Bearer {KEY}", path).status_code == 200
    assert ask(guarded, "bearer another-key", path).status_code == 200


WRONG = {
    "none": (None, ""),
    "empty": ("", ""),
    "wrong": ("Bearer wrong", ""),
    "near miss": (f"Bearer {KEY[:-1]}", ""),
    "one more": (f"Bearer {KEY}0", ""),
    "another scheme": (f"Basic {KEY}", ""),
    "in the query": (None, f"?key={KEY}&access_token={KEY}&authorization=Bearer%20{KEY}"),
    "the comment": ("Bearer # two", ""),
}


@pytest.mark.parametrize("path", ["/predict", "/models/trivial/predict", "/models/none/predict"])
@pytest.mark.parametrize("case", WRONG)
def test_s2_anything_else_is_401(guarded, case, path):
    authorization, query = WRONG[case]
    answer = ask(guarded, authorization, path + query)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:gradless:problem:unauthorized"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/models", "/docs", "/openapi.json"])
def test_s2_health_metrics_and_docs_stay_open(guarded, path):
    assert httpx.get(guarded.url + path).status_code == 200


@pytest.mark.parametrize("path", ["/models/reload", "/models/trivial/reload"])
def test_s2_a_reload_needs_a_key_too(guarded, path):
    assert ask(guarded, None, path).status_code == 401
    assert ask(guarded, "Bearer wrong", path).status_code == 401
    assert ask(guarded, f"Bearer {KEY}", path).status_code == 202
    guarded.wait_ready()


def test_s2_the_schema_says_so(guarded, two_ports):
    schema = httpx.get(f"{guarded.url}/openapi.json").json()
    assert schema["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert schema["paths"]["/predict"]["post"]["security"] == [{"key": []}]
    assert schema["paths"]["/models/reload"]["post"]["security"] == [{"key": []}]
    assert "401" in schema["paths"]["/predict"]["post"]["responses"]
    open_schema = httpx.get(f"{two_ports.url}/openapi.json").json()
    assert "security" not in open_schema["paths"]["/predict"]["post"]


def test_s2_no_key_is_logged(guarded):
    for authorization, query in WRONG.values():
        ask(guarded, authorization, "/predict" + query)
    ask(guarded, f"Bearer {KEY}", "/predict")
    wait_for(lambda: sum('"status": 401' in line for line in guarded.log) >= len(WRONG), 10, "an access log")
    assert KEY[:-1] not in "".join(guarded.log)
    assert "another-key" not in "".join(guarded.log)


def test_s2_changed_keys_hold_soon_and_a_bad_file_changes_nothing(guarded, keys_file):
    try:
        write_keys(keys_file, "old-key")
        wait_for(lambda: ask(guarded, "Bearer old-key").status_code == 200, keys.LOOK_SECONDS + 4, "the old key")
        write_keys(keys_file, "new-key")
        wait_for(lambda: ask(guarded, "Bearer new-key").status_code == 200, keys.LOOK_SECONDS + 4, "the new key")
        assert ask(guarded, "Bearer old-key").status_code == 401
        keys_file.write_text("")
        told = wait_for(
            lambda: ask(guarded, "Bearer new-key") and [line for line in list(guarded.log) if "keys not read" in line],
            5,
            "a line",
        )
        assert str(keys_file) in json.loads(told[0])["problem"]
        assert ask(guarded, "Bearer new-key").status_code == 200
    finally:
        write_keys(keys_file, "old-key")


@pytest.mark.parametrize("text", [None, pytest.param("", marks=pytest.mark.full), "# nothing\n", "two words\n"])
def test_s2_a_file_without_keys_ends_the_start(trivial, tmp_path, text):
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
    said = refused("--models", str(trivial), "--keys-file", str(file))
    assert str(file) in said
    assert "keys_file" in said
    assert "one key a line" in said


# S6

PUBLIC = ["/health/live", "/health/ready", "/models", "/docs", "/openapi.json"]
PRIVATE = ["/metrics", "/models/trivial", "/models/trivial/proof"]


@pytest.fixture(scope="module")
def with_two_ports(tmp_path_factory) -> Iterator[list[Server]]:
    """The servers so far; only the last one may still run."""
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.kill()


@pytest.fixture
def two_ports(with_two_ports, tmp_path_factory) -> Server:
    """A server with an operations port: the one that is there, or a new one where a test has ended that."""
    if not with_two_ports or with_two_ports[-1].process.poll() is not None:
        models = make_trivial(tmp_path_factory.mktemp("two-ports") / "models")
        flags = ("--operations-port", "0", "--front-ends", "2", "--drain-delay-seconds", "1")
        with_two_ports.append(Server(models, *flags))
        with_two_ports[-1].started()
    return with_two_ports[-1]


@pytest.mark.parametrize("path", PUBLIC)
def test_s6_what_clients_need_is_on_their_port(two_ports, path):
    assert httpx.get(two_ports.url + path).status_code == 200
    assert httpx.get(two_ports.operations + path).status_code == 200


@pytest.mark.parametrize("path", PRIVATE)
def test_s6_what_operators_need_is_on_theirs_alone(two_ports, path):
    assert two_ports.operations != two_ports.url
    assert httpx.get(two_ports.operations + path).status_code == 200
    assert httpx.get(two_ports.url + path).status_code == 404


def test_s6_predictions_are_on_the_clients_port_alone(two_ports):
    assert ask(two_ports, None).status_code == 200
    for path in ("/predict", "/models/trivial/predict"):
        answer = httpx.post(two_ports.operations + path, content=photographs()[0], headers=JPEG)
        assert answer.status_code == 404
        assert answer.json()["type"] == "urn:gradless:problem:not_found"
    schema = httpx.get(f"{two_ports.url}/openapi.json").json()
    assert "/metrics" not in schema["paths"]
    assert "/predict" not in httpx.get(f"{two_ports.operations}/openapi.json").json()["paths"]


@pytest.mark.parametrize("path", PUBLIC + PRIVATE)
def test_s6_without_that_port_all_is_on_one(guarded, path):
    assert guarded.operations == guarded.url
    assert httpx.get(guarded.url + path).status_code == 200


def test_s6_an_operations_port_in_use_is_told(two_ports, trivial):
    said = refused(
        "--models", str(trivial), "--port", "0", "--operations-port", two_ports.operations.rpartition(":")[2]
    )
    assert "--operations-port" in said


def test_s6_two_ports_drain_under_load_and_lose_nothing(two_ports):
    server = two_ports
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(50)
        server.process.terminate()
        ready = f"{server.operations}/health/ready"
        wait_for(lambda: httpx.get(ready).status_code == 503, 5, "not ready, as operators see it")
        traffic.wait_for_answers(20)
        assert server.process.wait(30) == 0
    assert traffic.errors == []
    assert {seen.response.status_code for seen in traffic.answers} == {200}
    wait_for(lambda: not server.tree(), 5, "no process left")


# E13


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_e13_with_64_file_handles_it_serves_fewer_connections_and_says_so(guarded):
    assert "too few file handles" in "".join(guarded.log)
    with ExitStack() as crowd:
        address = ("127.0.0.1", guarded.port)
        first, *others = [crowd.enter_context(socket.create_connection(address)) for _ in range(100)]
        first.settimeout(10)
        wait_for(lambda: any(map(is_told_503, others)), 10, "somebody who is told why")
        dead = guarded.engine()
        os.kill(dead, signal.SIGKILL)
        wait_for(lambda: guarded.pids("gradless: engine") not in ([], [dead]), 30, "a new engine")
        wait_for(lambda: status(first, "/health/ready") == 200, 15, "ready, with the crowd still there")
    guarded.wait_ready()
    assert ask(guarded, f"Bearer {KEY}").status_code == 200


def is_told_503(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(15) == b"HTTP/1.1 503 Se"
    except (BlockingIOError, ConnectionResetError):
        return False


def status(connection: socket.socket, path: str) -> int:
    """Of a GET on a connection that stays open."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return int(connection.recv(65_536).split()[1])
