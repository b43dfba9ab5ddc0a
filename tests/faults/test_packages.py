"""Compiled behind serving: the turn loses nothing, a bad package is refused and rebuilt, the dead leave no folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import httpx
import pytest

from service.engine.model import DEFAULT_CAP
from service.loader.compilers import COMPILERS
from tests.support.compiled import NO_OPENVINO, NO_TRIALS, compilers_of, make_small, optimization, wait_until
from tests.support.models import TOLERANCE, direct, photographs
from tests.support.server import Server, wait_for
from tests.support.traffic import Traffic

CAP = DEFAULT_CAP["cpu"]

#: A build is about twenty seconds of one core, which two suites and the traffic share.
BUILD_SECONDS = 240


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_small(tmp_path_factory.mktemp("models") / "m")


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
    environment = compilers | NO_TRIALS | {"GRADLESS_CACHE": str(cache)}
    with Server(models, "--optimize", "auto", environment=environment) as server:
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


@pytest.fixture(scope="module")
def warm_server(models, compiled, tmp_path_factory):
    """A server that begins with a copy of that cache, and without a C++ compiler."""
    cache = tmp_path_factory.mktemp("warm") / "cache"
    shutil.copytree(compiled[0], cache)
    environment = {"GRADLESS_CACHE": str(cache), "PATH": str(tmp_path_factory.mktemp("bin"))}
    with Server(models, "--optimize", "auto", environment=environment) as server:
        yield server.started()
        temporary = Path(server.temporary.name)
        assert server.stop() == 0
        assert list(temporary.glob("gradless-*")) == []


@pytest.fixture
def warm(compiled, tmp_path):
    """A copy of that cache."""
    shutil.copytree(compiled[0], tmp_path / "cache")
    return tmp_path / "cache"


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


def test_a_warm_cache_needs_no_cpp_compiler_and_no_second_generation(warm_server, eager):
    server = warm_server
    assert optimization(server)["state"] == "compiled"
    assert len(list(Path(server.temporary.name).rglob("engine-1.sock"))) == 1
    with Traffic(server, 4) as traffic:
        traffic.wait_for_answers(200)
    assert_as_eager(traffic, eager)
    proof = httpx.get(f"{server.operations}/models/small/proof", timeout=30).json()
    assert proof["passed"]
    assert compilers_of(server) == []
    assert "outdated" not in "".join(server.log)  # torch's word where it finds no compiler


def test_check_proves_the_package_too(here, models, warm):
    code, out, err = here("check", "--json", "--models", models, "--cache", warm)
    assert code == 0, err
    [model] = json.loads(out)["models"]
    assert model["optimization"]["state"] == "compiled"
    assert [rule["passed"] for rule in model["package"]["rules"]] == [True] * 8


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
    environment = compilers | NO_TRIALS | {"GRADLESS_CACHE": str(warm)}
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


def test_kills_leave_one_package_and_lose_nothing(warm_server, compilers, eager):
    """Ten of them where a package is unpacked for each engine; OpenVINO's leaves nothing to add up."""
    server = warm_server
    temporary = Path(server.temporary.name)
    with Traffic(server, 4) as traffic:
        for _ in range(10 if compilers is NO_OPENVINO else 3):
            traffic.wait_for_answers(10)
            pid = server.engine()
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda dead=pid: [p for p in server.pids("gradless: engine") if p != dead], 30, "another engine")
        traffic.wait_for_answers(10)
        assert len(unpacked(temporary)) == (1 if compilers is NO_OPENVINO else 0)
    assert_as_eager(traffic, eager)
    assert optimization(server)["state"] == "compiled"
