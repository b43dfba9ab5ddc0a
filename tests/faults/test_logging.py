"""Row L10 of the fault matrix: stderr that is stuck, gone, closed or full, and a server that serves all the same."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import signal
import socket
import termios
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.models import direct, make_models, make_trivial, photographs
from tests.support.server import Server, wait_for
from tests.support.traffic import JPEG, Traffic

DROPPED = "gradless_log_lines_dropped_total"
#: More lines of access log than the queue and a pipe hold.
MANY = 6_500


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_trivial(tmp_path_factory.mktemp("models") / "models")


def ask(server: Server, requests: int, path: str = "/health/live", status: int = 200) -> None:
    """Ask on one connection, one request after the other; each must be answered."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    with contextlib.closing(connection):
        for number in range(requests):
            connection.request("GET", path, headers={"X-Request-Id": f"burst-{number}"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status


def predict(server: Server, path: str = "/predict") -> int:
    return httpx.post(f"{server.url}{path}", content=photographs()[0], headers=JPEG, timeout=30).status_code


def fill(server: Server) -> None:
    """Have more logged than the queue and a pipe hold by their bytes: lines with long paths."""
    ask(server, 800, "/" + "x" * 3_500, status=404)


def stick(server: Server) -> None:
    """Stop reading, and have so much logged that lines are dropped."""
    before = server.metric(DROPPED)
    server.reading.clear()
    fill(server)
    wait_for(lambda: server.metric(DROPPED) > before, 30, "dropped lines")


def numbers(server: Server) -> list[int]:
    """The numbers of the requests of `ask` in the log."""
    ids = [event["request_id"] for event in server.events("request")]
    return [int(request_id.removeprefix("burst-")) for request_id in ids if request_id.startswith("burst-")]


def test_a_stderr_that_nobody_reads_stops_nothing_and_tells_later_what_is_missing_and_a_reader_may_hang_up(
    serve, models
):
    server = serve(models, "--access-log")
    assert server.metric(DROPPED) == 0
    assert f"{DROPPED} 0.0" in httpx.get(f"{server.operations}/metrics").text
    server.reading.clear()
    ask(server, MANY)
    wait_for(lambda: server.metric(DROPPED) > 0, 30, "dropped lines")
    assert predict(server) == 200
    assert httpx.get(f"{server.url}/health/live", timeout=5).status_code == 200
    server.reading.set()
    wait_for(lambda: any("log lines dropped" in line for line in list(server.log)), 30, "a notice")
    assert httpx.get(f"{server.url}/health/ready", headers={"X-Request-Id": "later"}).status_code == 200
    wait_for(lambda: any('"later"' in line for line in list(server.log)), 30, "a later line")
    dropped = server.metric(DROPPED)
    assert sum(event["count"] for event in server.events("log lines dropped")) == dropped
    assert numbers(server) == sorted(numbers(server))
    assert MANY - dropped <= len(numbers(server)) < MANY

    server.reading.clear()
    ask(server, 100)  # the reader stops after the next line
    server.hang_up()
    ask(server, 1_000)
    assert predict(server) == 200
    wait_for(lambda: server.metric(DROPPED) >= dropped + 1_000, 30, "dropped lines")
    assert server.stop() == 0


def test_a_burst_that_somebody_reads_comes_whole_and_in_order_and_so_do_the_last_lines_of_every_process(serve, models):
    server = serve(models, "--access-log")
    ask(server, 3_000)
    assert server.metric(DROPPED) == 0
    assert server.stop() == 0
    server._reader.join(30)
    assert numbers(server) == list(range(3_000))
    for last in ("draining", "front end ends", "engine ends", "stopped"):
        assert len(server.events(last)) == 1, last


def test_an_engine_is_killed_and_replaced_while_stderr_is_stuck_and_sigterm_drains_in_time(serve, models):
    server = serve(models, "--access-log")
    stick(server)
    with Traffic(server, 4, pause=0.01) as traffic:
        traffic.wait_for_answers(20)
        for _ in range(2):
            engine = server.engine()
            os.kill(engine, signal.SIGKILL)
            wait_for(lambda dead=engine: server.pids("gradless: engine") not in ([], [dead]), 30, "a new engine")
            traffic.wait_for_answers(20)
    traffic.assert_all_right(direct(models, "trivial"))
    assert server.metric("gradless_engine_restarts_total", reason="SIGKILL") == 2
    server.reading.set()
    wait_for(lambda: any("engine died" in line for line in list(server.log)), 30, "the supervisor's lines")
    assert server.events("engine died")

    stick(server)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    wait_for(lambda: not server.tree(), 5, "no process left")


def test_a_front_end_that_dies_is_replaced_while_stderr_is_stuck_and_a_killed_supervisor_takes_all_along(serve, models):
    server = serve(models, "--access-log", "--front-ends", "2")
    stick(server)
    [first] = server.pids("gradless: front end 0")
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: server.pids("gradless: front end 0") not in ([], [first]), 30, "a new front end 0")
    wait_for(server.is_ready, 30, "ready")
    before = server.metric(DROPPED)
    fill(server)
    assert server.metric(DROPPED) >= before  # a counter, whoever died

    server.process.kill()
    wait_for(lambda: not server.tree(), 5, "no process left")


def _printing(models: Path) -> Path:
    """Beside the trivial model, one that prints more in each forward than a small pipe takes."""
    make_models(
        models, loud='weights = "random:1"\narchitecture = "architecture:loud"\n[input]\nresize = 32\ncrop = 32\n'
    )
    (models / "loud" / "architecture.py").write_text(
        "import sys, warnings\n\nfrom torch import nn\n\n\n"
        "class Loud(nn.Sequential):\n"
        "    def forward(self, x):\n"
        "        print('x' * 10_000)\n"
        "        print('x' * 10_000, file=sys.stderr)\n"
        "        warnings.warn('x' * 10_000)\n"
        "        return super().forward(x)\n\n\n"
        "def loud():\n    return Loud(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))\n"
    )
    return models


@pytest.fixture(scope="module")
def stuck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Its stdout is a pipe that nobody has ever read; its stderr a small one that is not read any more."""
    read_end, write_end = os.pipe()
    try:
        models = _printing(make_trivial(tmp_path_factory.mktemp("stuck") / "models"))
        with Server(models, "--default-model", "trivial", stdout=write_end) as server:
            fcntl.fcntl(server.process.stderr, fcntl.F_SETPIPE_SZ, 4_096)
            server.started().wait_ready()
            yield server
            server.reading.clear()
            assert server.stop() == 0
    finally:
        os.close(read_end)
        os.close(write_end)


def odd_picture() -> bytes:
    """A JPEG that libjpeg complains of on stderr, and decodes."""
    at = photographs()[0].rindex(b"\xff\xd9")
    return photographs()[0][:at] + b"junk" * 100 + photographs()[0][at:]


def test_a_decoder_that_complains_on_a_stuck_stderr_stops_nothing(stuck):
    stuck.reading.set()
    assert httpx.post(f"{stuck.url}/predict", content=odd_picture(), headers=JPEG).status_code == 200
    wait_for(lambda: [line for line in list(stuck.log) if "extraneous bytes" in line], 30, "a complaint")
    stuck.reading.clear()
    with httpx.Client(timeout=10) as client:
        for _ in range(300):  # their complaints are more than the pipe holds
            assert client.post(f"{stuck.url}/predict", content=odd_picture(), headers=JPEG).status_code == 200
    assert httpx.get(f"{stuck.url}/health/live", timeout=5).status_code == 200


def test_a_model_that_prints_waits_for_no_reader(stuck):
    stuck.reading.clear()
    for _ in range(50):
        assert predict(stuck, "/models/loud/predict") == 200
    assert stuck.metric("gradless_engine_restarts_total") == 0


@contextlib.contextmanager
def unheard(models: Path, *flags: str, redirect: str) -> Iterator[Server]:
    """A server on a port chosen here, as its log cannot tell."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Server(models, *flags, "--port", str(port), redirect=redirect) as server:
        server.url = server.operations = f"http://127.0.0.1:{port}"
        wait_for(server.is_ready, 120, "ready")
        yield server


def test_a_terminal_that_is_stopped_stops_nothing(models):
    """Ctrl-S before the table of the start comes."""
    master, slave = os.openpty()
    try:
        termios.tcflow(slave, termios.TCOOFF)
        with unheard(models, "--access-log", redirect=f"2>{os.ttyname(slave)}") as server:
            ask(server, 1_000)
            assert predict(server) == 200
            assert server.stop() == 0
    finally:
        os.close(slave)
        os.close(master)


@pytest.mark.parametrize(
    "redirect",
    [
        pytest.param("2>&-", marks=pytest.mark.full),
        "2>/dev/full",
        pytest.param(">&- 2>&-", marks=pytest.mark.full),
        "<&- >&- 2>&-",
    ],
)
def test_a_stderr_that_is_closed_or_full_at_the_start_stops_nothing(models, redirect):
    with unheard(models, "--access-log", redirect=redirect) as server:
        ask(server, 1_000)
        assert predict(server) == 200
        os.kill(server.engine(), signal.SIGKILL)
        wait_for(lambda: server.metric("gradless_engine_restarts_total") == 1, 30, "a new engine")
        wait_for(server.is_ready, 30, "ready")
        assert predict(server) == 200
        if "full" in redirect:
            wait_for(lambda: server.metric(DROPPED) > 1_000, 30, "dropped lines")
        for process in server.tree():  # nothing that is read or written has got the number of a closed stderr
            here = Path(f"/proc/{process.pid}/fd/2").readlink()
            assert str(here) == ("/dev/full" if "full" in redirect else "/dev/null"), process.name()
        assert server.stop() == 0
