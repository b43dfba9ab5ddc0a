"""The compiler behind a server, and without one: it harms nobody, ends with its server, and pieces overlap safely."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

import service.compiler.compile as compiling
from service.compiler.compile import Place
from service.engine.model import DEFAULT_CAP
from service.host.cores import usable_cores
from service.loader.load import load
from service.loader.repository import find_models
from service.loader.tuning import Tuning
from tests.support.coloured import restarts
from tests.support.compiled import NO_OPENVINO, compilers_of, make_small, optimization, wait_until
from tests.support.memory import aboard
from tests.support.models import SHIPPED, direct
from tests.support.server import wait_for
from tests.support.traffic import Traffic

CAP = DEFAULT_CAP["cpu"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_small(tmp_path_factory.mktemp("models") / "m")


@pytest.fixture(scope="module")
def model(models):
    return direct(models, "small")


def test_compile_without_a_compiler_is_a_no_with_the_reason(models, tmp_path):
    (tmp_path / "bin").mkdir()
    command = [sys.executable, "-m", "service", "compile", "--device", "cpu", "--models", str(models)]
    environment = {"PATH": str(tmp_path / "bin"), "GRADLESS_CACHE": str(tmp_path / "cache")}
    environment = os.environ | NO_OPENVINO | environment
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 1, done.stderr
    assert "no-compiler: OpenVINO is not installed" in done.stdout
    assert "there is no g++ on the PATH" in done.stdout


def test_without_a_compiler_a_cold_cache_serves_eager_and_says_why(serve, models, tmp_path, model):
    (tmp_path / "bin").mkdir()
    server = serve(models, "--optimize", "auto", environment=NO_OPENVINO | {"PATH": str(tmp_path / "bin")})
    assert "no g++ on the PATH" in wait_until(server, "no-compiler")["detail"]
    assert any('"verdict": "no-compiler"' in line for line in server.log)
    assert server.metric("gradless_model_optimization", model="small", state="no-compiler") == 1
    assert server.metric("gradless_model_optimization", model="small", state="pending") == 0
    with Traffic(server, 2) as traffic:
        traffic.wait_for_answers(20)
    traffic.assert_all_right(model)


def test_a_compiler_that_is_killed_is_told_and_harms_nobody(serve, models, model):
    server = serve(models, "--optimize", "auto")
    [compiler] = wait_for(lambda: compilers_of(server), 30, "a compiler")
    compiler.kill()
    assert "SIGKILL" in wait_until(server, "failed")["detail"]
    wait_for(lambda: not list(Path(server.temporary.name).rglob("compiler")), 10, "no folder left")
    with Traffic(server, 2) as traffic:
        traffic.wait_for_answers(20)
    traffic.assert_all_right(model)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
def test_a_server_that_ends_takes_its_compiler_along(serve, models, number):
    server = serve(models, "--optimize", "auto", environment=NO_OPENVINO)
    wait_for(lambda: compilers_of(server), 30, "a compiler")
    [compiler] = compilers_of(server)
    wait_for(lambda: compiler.children(recursive=True), 60, "a C++ compiler at work")
    group = [compiler, *compiler.children(recursive=True)]
    server.process.send_signal(number)
    wait_for(lambda: not any(map(_lives, group)), 20, "no compiler left")


def _lives(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_kills_with_two_batches_under_way_lose_nothing(serve, tmp_path, monkeypatch):
    """A package that computes in pieces, the only candidate here, begins a batch before the one under way has ended."""
    if usable_cores() < 2:
        pytest.skip("with one core nothing is computed in pieces")
    pieces = [compiler for compiler in compiling.COMPILERS if compiler.name == "openvino, in pieces"]
    monkeypatch.setattr(compiling, "COMPILERS", pieces)
    monkeypatch.setattr(compiling, "WORTH_IT", 100.0)
    folder = find_models(SHIPPED)["efficientnet_lite0"]
    place = Place(torch.device("cpu"), usable_cores(), tmp_path / "cache")
    tunings = {load(folder).version: Tuning("channels_last", usable_cores())}  # of one thread there are no pieces
    assert compiling.compile_model(folder, place, tunings).verdict.state == "compiled"

    server = serve(SHIPPED, "--optimize", "auto", "--cache", str(tmp_path / "cache"))
    assert optimization(server, "efficientnet_lite0")["state"] == "compiled"

    def two_under_way() -> bool:
        return any(len(ids) > CAP for ids in aboard(server))

    with Traffic(server, 4 * CAP) as traffic:
        for kill in range(1, 4):
            traffic.wait_for_answers(4 * CAP)
            engine = server.engine()
            wait_for(two_under_way, 30, "two batches under way")
            os.kill(engine, signal.SIGKILL)
            wait_for(lambda kill=kill: restarts(server, "SIGKILL") == kill, 30, "a restart")
        traffic.wait_for_answers(4 * CAP)
    traffic.assert_all_right(direct(SHIPPED, "efficientnet_lite0"))
    assert server.metric("gradless_replayed_requests_total", model="efficientnet_lite0") > CAP
