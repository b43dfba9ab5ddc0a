"""`gradless bench` as a user runs it, with short measurements, in this process: torch has been imported here."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import httpx
import pytest

from service.bench import tune, turns
from tests.support.models import make_trivial


@pytest.fixture
def bench(monkeypatch, here):
    """Runs the command here; gives its exit code, what it printed, and what it told of errors."""
    monkeypatch.setattr(tune, "keep_freed_memory", lambda: None)  # the tests that come after this one have theirs freed
    monkeypatch.setattr(tune, "SECONDS", 0.02)

    return functools.partial(here, "bench")


def test_the_server_and_the_bare_loop_take_turns_and_what_they_did_is_told_drawn_and_written(
    tmp_path, monkeypatch, bench
):
    monkeypatch.setenv("CXX", "/nonexistent")  # OpenVINO's package is made in a moment, AOTInductor's is not
    monkeypatch.setattr(turns, "TAIL", 1)
    monkeypatch.setattr(turns, "TURNS_OF_ONE", 1)
    monkeypatch.setattr(turns, "BARE_SHARE", 0.05)
    models, cache = make_trivial(tmp_path / "models"), tmp_path / "cache"
    files = ["--plot", str(tmp_path / "plot.png"), "--report", str(tmp_path / "report.html")]
    common = ["--models", str(models), "--cache", str(cache), "--seconds", "1", "--rounds", "1"]
    code, out, err = bench(*common, "--model", "trivial", "--no-peers", "--json", *files)
    assert code in (0, 1), err  # 1: the machine was too busy for a conclusion
    assert out, err
    told = json.loads(out)
    model = told["models"][0]
    assert [load["clients"] for load in model["servers"]["gradless"]] == [1, 32]
    for load in model["servers"]["gradless"]:
        assert load["rate"] > 0
        assert set(load["kinds"]) == {"200"}
        assert load["stages_ms"].keys() >= {"decode", "queue", "forward", "total"}
        assert load["cpu_seconds_per_1000"].keys() >= {"supervisor", "front end", "engine"}
        assert sum(load["cpu_seconds_per_1000"].values()) > 0
        assert load["mean_batch"] >= 1
        assert 0 < load["generator_cores"] < 2
    forwards = list(dict.fromkeys(bare["forward"] for bare in model["bare"]))
    assert forwards[0] == "eager, contiguous_format"
    assert [(bare["forward"], bare["batch_size"]) for bare in model["bare"]] == [
        (forward, size) for forward in forwards for size in (1, 2, 4, 8, 16, 32)
    ]
    assert [(load["clients"], set(load["kinds"])) for load in model["servers"]["open-inference"]] == [
        (1, {"200"}),
        (32, {"200"}),
    ]
    assert [len(rates) for rates in model["canary"]] == [4]
    assert told["machine"]["torch"]
    assert model["alone"]["flops"] > 0
    assert 0 < model["alone"]["peak_flops"] < 1e16
    assert model["alone"]["seconds"].keys() >= {"eager, contiguous_format", "openvino"}
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "Gradless, 32 clients" in page


def test_what_tune_finds_is_used_at_the_next_start_and_shown(serve, tmp_path, bench):
    models, cache = make_trivial(tmp_path / "models"), str(tmp_path / "cache")
    (models / "trivial" / "model.toml").write_text(
        (models / "trivial" / "model.toml").read_text().replace("max_batch_size = 32", "max_batch_size = 4")
    )
    code, out, err = bench("--tune", "--json", "--models", str(models), "--cache", cache)
    assert code == 0, err
    found = json.loads(out)
    assert found["tuning"]["cap"] <= 4
    assert {timing["batch_size"] for timing in found["timings"]} == {1, 2, 4}
    server = serve(models, "--cache", cache)
    shown = httpx.get(f"{server.url}/models/trivial").json()
    assert shown["tuned"]["made"] == found["made"]
    assert shown["memory_format"] == found["tuning"]["memory_format"]
    assert shown["batch_sizes"][-1] == found["tuning"]["cap"]
    assert found["made"] in next(line for line in server.log if '"serving"' in line)


def test_a_target_that_nothing_meets_and_a_commit_that_is_not_there_are_told(tmp_path, bench):
    models = make_trivial(tmp_path / "models")
    cache = str(tmp_path / "cache")
    code, _, err = bench("--tune", "--latency-target", "0.00001", "--models", str(models), "--cache", cache)
    assert code == 2
    assert "--latency-target" in err
    code, _, err = bench("--against", "no-such-commit", "--models", str(models))
    assert code == 2
    assert "no-such-commit" in err
    assert "Traceback" not in err


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_every_peer_does_the_job(tmp_path):
    models = make_trivial(tmp_path / "models")
    common = ["--models", str(models), "--cache", str(tmp_path / "cache"), "--seconds", "1", "--rounds", "1"]
    command = [sys.executable, "-m", "service", "bench", *common, "--model", "trivial", "--json", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    servers = json.loads(done.stdout)["models"][0]["servers"]
    assert servers.keys() == {"gradless", "open-inference", "naive", "litserve", "mosec"}
    for loads in servers.values():
        for load in loads:
            assert set(load["kinds"]) == {"200"}
