"""Rows C1, C2 and C6 of the fault matrix: how it starts, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from service.metrics import render
from tests.support.memory import memory_files
from tests.support.models import SMALL, direct, make_models, make_trivial, photographs
from tests.support.server import Server, wait_for
from tests.support.traffic import JPEG, Traffic


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return make_trivial(tmp_path_factory.mktemp("trivial") / "models")


@pytest.mark.parametrize("whom", ["the parent", "the group"])
def test_c1_sigterm_under_load_loses_nothing_and_leaves_no_process_and_no_file(serve, models, tmp_path, whom):
    model = direct(models, "trivial")
    flags = ("--front-ends", "2", "--drain-delay-seconds", "1")
    server = serve(models, *flags, environment={"GRADLESS_CACHE": str(tmp_path / "cache")})
    temporary = Path(server.temporary.name)
    assert list(temporary.glob("gradless-*"))
    with Traffic(server, 16) as traffic:
        traffic.wait_for_answers(50)
        if whom == "the parent":
            server.process.terminate()
        else:
            os.killpg(server.process.pid, signal.SIGTERM)
        wait_for(lambda: not server.is_ready(), 5, "not ready")
        traffic.wait_for_answers(20)
        assert server.process.wait(30) == 0
    traffic.assert_all_right(model)
    assert any(seen.response.headers.get("Connection") == "close" for seen in traffic.answers)
    wait_for(lambda: not server.tree(), 5, "no process left")
    assert list(temporary.iterdir()) == []


def test_c1_who_connected_just_before_the_door_closed_is_heard_out(serve, models):
    picture = photographs()[0]
    server = serve(models, "--drain-delay-seconds", "0.2")
    server.process.terminate()
    connections: list[socket.socket] = []
    try:
        wait_for(lambda: _is_refused(server, connections), 10, "a closed door")
        threading.Event().wait(0.4)  # a client that takes its time
        last = connections[-1]
        head = (
            f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
        )
        last.sendall(head.encode() + picture)
        last.settimeout(30)
        assert last.recv(15) == b"HTTP/1.1 200 OK"
    finally:
        for connection in connections:
            connection.close()
    assert server.process.wait(30) == 0


def _is_refused(server: Server, connections: list[socket.socket]) -> bool:
    """Whether the server takes no more connections; one that it takes is kept."""
    try:
        connections.append(socket.create_connection(("127.0.0.1", server.port), timeout=0.2))
    except (ConnectionRefusedError, TimeoutError):  # the kernel shakes hands at once, or not any more
        return True
    return False


class Newcomers:
    """Clients who come on a connection of their own each time, as fast as they can, until they are refused."""

    def __init__(self, server: Server, clients: int) -> None:
        self._port = server.port
        self.answered = [0] * clients
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._come, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def _come(self, number: int) -> None:
        while True:
            try:
                connection = socket.create_connection(("127.0.0.1", self._port), timeout=30)
            except ConnectionRefusedError:
                return
            with connection:
                try:
                    connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    if connection.recv(15) == b"HTTP/1.1 200 OK":
                        self.answered[number] += 1
                    else:
                        self.errors.append("no answer")
                except OSError as error:
                    self.errors.append(repr(error))

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)


@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.full)])
def test_c1_who_comes_while_the_door_closes_is_answered_or_refused_and_never_reset(serve, models, times):
    for _ in range(times):
        server = serve(models, "--drain-delay-seconds", "0")
        newcomers = Newcomers(server, 16)
        wait_for(lambda: min(newcomers.answered) > 3, 20, "answers")  # noqa: B023
        assert server.stop() == 0
        newcomers.join()
        assert newcomers.errors == []


def test_c2_a_second_signal_ends_at_once(serve, models):
    server = serve(models, "--drain-delay-seconds", "60")
    server.process.terminate()
    wait_for(lambda: not server.is_ready(), 5, "draining")
    server.process.terminate()
    assert server.process.wait(10) == 1
    wait_for(lambda: not server.tree(), 5, "no process left")


def test_c2_a_signal_during_start_up_ends_it(models):
    with Server(models) as server:
        wait_for(lambda: server.pids("gradless: fork server"), 30, "a fork server")
        server.process.terminate()
        assert server.process.wait(30) == 0
        wait_for(lambda: not server.tree(), 10, "no process left")


def refused(*flags: str, cwd=None, **environment: str) -> str:
    """What a start that must not happen says."""
    command = [sys.executable, "-m", "service", "serve", *flags]
    search = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": search} | environment,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_it_says_that_it_serves_only_once_somebody_listens_and_ctrl_c_of_it_idle_ends_it_well(models):
    with Server(models, "--drain-delay-seconds", "0") as server:
        [front_end] = wait_for(lambda: server.pids("gradless: front end"), 60, "a front end")
        os.kill(front_end, signal.SIGSTOP)  # it has its name, and its modules are still to be imported
        try:
            wait_for(lambda: _engine_is_up(server), 60, "an engine")
            threading.Event().wait(0.5)
            assert not any('"serving"' in line for line in server.log)
        finally:
            os.kill(front_end, signal.SIGCONT)
        server.started()
        socket.create_connection(("127.0.0.1", server.port), 5).close()
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.process.wait(20) == 0
        wait_for(lambda: not server.tree(), 5, "no process left")


def _engine_is_up(server: Server) -> bool:
    """What the supervisor counts, read where it counts it: nobody answers yet."""
    [memory] = memory_files(server, "gradless-metrics")
    return server.samples(render(memory)[0].decode(), "gradless_engine_up", {"device": "cpu"}) == [1]


def test_c6_every_fault_of_every_card_is_told_at_once_with_file_key_and_fix(tmp_path):
    models = make_models(
        tmp_path / "models",
        a=SMALL.format(seed=1) + "crops = 3\n",
        b='weights = "file:gone.pth"\narchitecture = "torchvision:resnet18"\n',
    )
    said = refused("--models", str(models))
    assert "a/model.toml" in said
    assert "input.crops" in said
    assert "gone.pth" in said


def test_c6_two_models_and_no_default_are_told_with_their_names(two_models):
    said = refused("--models", str(two_models))
    assert "one" in said
    assert "two" in said


def test_c6_a_wrong_setting_names_its_variable_and_what_it_is(two_models):
    said = refused("--models", str(two_models), GRADLESS_PORT="seventy")
    assert "GRADLESS_PORT" in said
    assert "'seventy' is not a whole number; give one" in said


def test_c6_an_unknown_key_of_gradless_toml_is_refused(two_models, tmp_path):
    (tmp_path / "gradless.toml").write_text("prot = 1\n")
    assert "prot" in refused("--models", str(two_models), cwd=tmp_path)


def test_c6_a_device_that_is_not_there_is_told_with_those_that_are(two_models):
    said = refused("--models", str(two_models), "--default-model", "one", "--device", "cuda:99")
    assert "cuda:99" in said
    assert "cpu" in said


def test_c6_a_port_in_use_is_told(two_models):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refused("--models", str(two_models), "--default-model", "one", "--port", port)
    assert port in said


def test_before_the_first_ready_a_request_is_refused_and_says_when_to_come_back(serve, tmp_path):
    models = make_models(tmp_path / "models", slow='weights = "random:1"\narchitecture = "architecture:slow"\n')
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (models / "slow" / "architecture.py").write_text(
        "from torch import nn\n\n\ndef slow():\n"
        f"    open({str(gate)!r}).read()\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Server(models, "--port", str(port)) as server:
        server.url = server.operations = f"http://127.0.0.1:{port}"
        wait_for(lambda: _answers(server), 60, "an answer")
        refusal = httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG)
        assert refusal.status_code == 503
        assert refusal.json()["type"].endswith("not_ready")
        assert int(refusal.headers["Retry-After"]) >= 1
        assert not server.is_ready()
        gate.write_text("go")
        server.wait_ready(60)
        assert httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG).status_code == 200


def _answers(server: Server) -> bool:
    try:
        return httpx.get(f"{server.url}/health/live").status_code == 200
    except httpx.TransportError:
        return False
