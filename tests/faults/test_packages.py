"""Compiled behind serving: the turn loses nothing, a bad package is refused and rebuilt, the dead leave no folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
import torch

import service.compiler.compile as compiling
from service.compiler.compile import Place
from service.compiler.photographs import photographs as compiled_photographs
from service.engine.model import DEFAULT_CAP
from service.host.cores import usable_cores
from service.loader.compilers import COMPILERS
from service.loader.load import load
from service.loader.repository import find_models
from service.loader.tuning import Tuning
from tests.support.coloured import restarts
from tests.support.memory import aboard
from tests.support.models import SHIPPED, TOLERANCE, direct, make_models, photographs
from tests.support.server import Server, wait_for
from tests.support.traffic import Traffic

CAP = DEFAULT_CAP["cpu"]

#: A build is about twenty seconds of one core, which two suites and the traffic share.
BUILD_SECONDS = 240

#: A sitecustomize that hides OpenVINO, so that AOTInductor's packages are what wins.
NO_OPENVINO = {"PYTHONPATH": str(Path(__file__).parents[1] / "support" / "no_openvino")}


#: A model of 180 operators on tensors so small that eager's time is their dispatch: a package takes a fifth to a third
#: of it, whatever the processor. They become one kernel, which a C++ compiler makes in seconds.
CARD = """\
weights = "random:1"
architecture = "architecture:small"
[input]
resize = 72
crop = 64
"""
CODE = """\
from torch import nn


class Pointwise(nn.Module):
    def forward(self, x):
        for _ in range(60):
            x = (x * 0.99).clamp(-8, 8) + 0.01
        return x


def small():
    convolution = [nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.AvgPool2d(7)]
    return nn.Sequential(*convolution, Pointwise(), nn.Flatten(), nn.Linear(256, 10))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model that a package wins by much, and whose forward is short."""
    models = make_models(tmp_path_factory.mktemp("models") / "m", small=CARD)
    (models / "small" / "architecture.py").write_text(CODE)
    return models


@pytest.fixture(scope="module", params=["aot_inductor", "openvino"])
def compilers(request, tmp_path_factory):
    """The environment of a server that has this one only."""
    if request.param == "aot_inductor":
        return NO_OPENVINO
    return {"PATH": str(tmp_path_factory.mktemp("bin"))}  # without a C++ compiler


@pytest.fixture(scope="module")
def compiled(models, compilers, tmp_path_factory):
    """A cache that a server has filled behind its serving, under load; and what its clients saw of that."""
    cache = tmp_path_factory.mktemp("cache") / "gradless"
    with Server(models, "--optimize", "auto", environment=compilers | {"GRADLESS_CACHE": str(cache)}) as server:
        server.started()
        first = optimization(server)
        with Traffic(server, 1, pause=0.05) as traffic:
            traffic.wait_for_answers(len(photographs()))
            niceness = [process.nice() for process in compilers_of(server)]
            wait_for(lambda: any('"optimised"' in line for line in server.log), BUILD_SECONDS, "a verdict")
            assert '"verdict": "compiled"' in "".join(server.log)
            wait_until(server, "compiled")
            traffic.wait_for_answers(100)
        metric = server.metric("gradless_model_optimization", model="small", state="compiled")
        left = sorted(path.name for path in Path(server.temporary.name).rglob("*"))
        yield cache, first, traffic, niceness, metric, left, "".join(server.log)


@pytest.fixture
def eager(compiled):
    """What the first answers were, and how far a probability may be from them."""
    return eager_answers(compiled[2]), TOLERANCE


@pytest.fixture(scope="module")
def model(models):
    return direct(models, "small")


@pytest.fixture
def warm(compiled, tmp_path):
    """A copy of that cache."""
    shutil.copytree(compiled[0], tmp_path / "cache")
    return tmp_path / "cache"


def optimization(server, model="small"):
    return httpx.get(f"{server.operations}/models/{model}", timeout=30).json()["optimization"]


def wait_until(server, state, limit=30):
    return wait_for(lambda: (now := optimization(server))["state"] == state and now, limit, state)


def compilers_of(server):
    """Its compiler, if one runs: a child of the fork server, in a group of its own."""
    found = []
    for pid in server.pids("gradless: fork server"):
        for process in psutil.Process(pid).children():
            if " ".join(process.cmdline()).startswith("gradless: compiler"):
                found.append(process)
    return found


def eager_answers(traffic):
    """By picture, the classes of its first answer, which came before there was a package."""
    answers = {}
    for seen in traffic.answers:
        answers.setdefault(seen.picture, seen.response.json()["predictions"][0]["classes"])
    assert len(answers) == len(photographs())
    return answers


def assert_as_eager(traffic, eager):
    """Nothing was lost, and no probability differs by more than the tolerance from what eager said."""
    answers, tolerance = eager
    assert traffic.errors == []
    assert traffic.answers
    for seen in traffic.answers:
        assert seen.response.status_code == 200, seen.response.text
        classes = seen.response.json()["predictions"][0]["classes"]
        expected = answers[seen.picture]
        known = {one["id"]: one["probability"] for one in expected}
        for rank, one in enumerate(classes):
            assert abs(one["probability"] - expected[rank]["probability"]) <= tolerance
            assert abs(one["probability"] - known.get(one["id"], one["probability"])) <= tolerance


def packages_of(cache):
    suffixes = {compiler.suffix for compiler in COMPILERS}
    return [file for file in (cache / "compiled").iterdir() if file.suffix in suffixes]


def unpacked(temporary):
    """The folders of AOTInductor's packages that run, or ran; OpenVINO's are read as they are."""
    return list(Path(temporary).rglob("aotinductor_*"))


def test_a_cold_cache_serves_eager_at_once_and_turns_to_the_package_without_a_loss(compiled, eager):
    _, first, traffic, niceness, metric, _, log = compiled
    assert first["state"] == "pending"
    assert niceness
    assert all(nice > 0 for nice in niceness)
    assert_as_eager(traffic, eager)
    assert metric == 1
    assert '"verdict": "compiled"' in log


def test_compiling_leaves_nothing_in_the_temporary_folder(compiled, compilers):
    left = compiled[5]
    running = [name for name in left if name.startswith("aotinductor_")]
    assert len(running) == (1 if compilers is NO_OPENVINO else 0)
    assert "compiler" not in left
    assert [name for name in left if name.startswith("gradless-compile")] == []


def test_a_warm_cache_needs_no_cpp_compiler_and_no_second_generation(serve, models, warm, tmp_path, eager):
    (tmp_path / "bin").mkdir()
    environment = {"GRADLESS_CACHE": str(warm), "PATH": str(tmp_path / "bin")}
    server = serve(models, "--optimize", "auto", environment=environment)
    assert optimization(server)["state"] == "compiled"
    assert len(list(Path(server.temporary.name).rglob("engine-1.sock"))) == 1
    with Traffic(server, 4) as traffic:
        traffic.wait_for_answers(200)
    assert_as_eager(traffic, eager)
    proof = httpx.get(f"{server.operations}/models/small/proof", timeout=30).json()
    assert proof["passed"]
    assert compilers_of(server) == []
    assert "outdated" not in "".join(server.log)  # torch's word where it finds no compiler


def test_check_proves_the_package_too(models, warm):
    command = [sys.executable, "-m", "service", "check", "--device", "cpu", "--json", "--models", str(models)]
    done = subprocess.run([*command, "--cache", str(warm)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    [model] = json.loads(done.stdout)["models"]
    assert model["optimization"]["state"] == "compiled"
    assert [rule["passed"] for rule in model["package"]["rules"]] == [True] * 8


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


@pytest.mark.parametrize(
    "compilers", [pytest.param("aot_inductor", marks=pytest.mark.full), "openvino"], indirect=True, scope="module"
)
def test_a_corrupted_package_is_refused_and_rebuilt_while_eager_answers(serve, models, compilers, warm, eager):
    """With stop-first: where a device cannot hold two engines, the package waits for the next start."""
    [package] = packages_of(warm)
    content = bytearray(package.read_bytes())
    content[len(content) // 2] ^= 1
    package.write_bytes(content)
    flags = ("--optimize", "auto", "--replace", "stop-first")
    environment = compilers | {"GRADLESS_CACHE": str(warm)}
    server = serve(models, *flags, environment=environment)
    assert "hashes to" in optimization(server)["detail"]
    assert any('"package refused"' in line for line in server.log)
    engine = server.engine()
    with Traffic(server, 1, pause=0.05) as traffic:
        wait_for(lambda: any('"optimised"' in line for line in server.log), BUILD_SECONDS, "a verdict")
        traffic.wait_for_answers(20)
    assert_as_eager(traffic, eager)
    shown = wait_for(lambda: "next start" in optimization(server)["detail"] and optimization(server), 10, "the news")
    assert shown["state"] == "pending"
    assert server.engine() == engine
    assert server.stop() == 0
    server = serve(models, *flags, environment=environment)
    assert optimization(server)["state"] == "compiled"


def test_ten_kills_leave_one_package_and_lose_nothing(serve, models, compilers, warm, eager):
    server = serve(models, "--optimize", "auto", environment={"GRADLESS_CACHE": str(warm)})
    temporary = Path(server.temporary.name)
    with Traffic(server, 4) as traffic:
        for _ in range(10):
            traffic.wait_for_answers(10)
            pid = server.engine()
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda dead=pid: [p for p in server.pids("gradless: engine") if p != dead], 30, "another engine")
        traffic.wait_for_answers(10)
        assert len(unpacked(temporary)) == (1 if compilers is NO_OPENVINO else 0)
    assert_as_eager(traffic, eager)
    assert optimization(server)["state"] == "compiled"
    assert server.stop() == 0
    assert list(temporary.glob("gradless-*")) == []


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
    assert compiling.compile_model(folder, place, tunings, compiled_photographs).verdict.state == "compiled"

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
