"""Tensors of 50 MB: how much memory a proof, a request and an answer take, and what is refused before it comes."""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.support.models import make_models
from tests.support.server import Server

SIZE = 50_000_000
MIB = 1 << 20
#: What a process takes besides arrays while it works on one.
BESIDES = 24 * MIB
CODE = f"""\
from torch import nn


class Sums(nn.Module):
    def forward(self, x):
        return x.reshape(len(x), 100, -1).mean(2)


class Spreads(nn.Module):
    def forward(self, x):
        return x.expand(-1, {SIZE // 4}) * 1.5
"""
CARD = 'task = "tensor"\nweights = "factory"\narchitecture = "nets:{}"\n[inputs.x]\nshape = [{}]\n'
NPY = "application/x-npy"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    cards = {"takes": CARD.format("Sums", SIZE // 4), "gives": CARD.format("Spreads", 1)}
    models = make_models(tmp_path_factory.mktemp("large") / "models", **cards)
    for name in cards:
        (models / name / "nets.py").write_text(CODE)
    return models


@pytest.fixture(scope="module")
def server(models):
    with Server(models, "--default-model", "takes", "--max-body-bytes", str(SIZE + 1000)) as running:
        yield running.started()
        assert running.stop() == 0


def grown(server, ask) -> dict[str, int]:
    """The bytes by which each process rose above what it had, at its highest while it answered."""
    pids = {"front end": server.pids("gradless: front end")[0], "engine": server.engine()}
    before = {}
    for name, pid in pids.items():
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): the peak starts again
        before[name] = memory(pid, "VmRSS")
    ask()
    found = {name: memory(pid, "VmHWM") - before[name] for name, pid in pids.items()}
    print({name: f"{size >> 20} MiB" for name, size in found.items()})
    return found


def memory(pid: int | str, key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return 1024 * int(found[1])


@pytest.mark.alone
def test_a_request_of_50_mb_takes_the_memory_of_three_copies(server):
    file = io.BytesIO()
    np.save(file, np.ones((1, SIZE // 4), np.float32))
    body = file.getvalue()

    def ask():
        answer = httpx.post(f"{server.url}/predict", content=body, headers={"Content-Type": NPY}, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["predictions"][0]["outputs"]["output"] == [1.0] * 100

    assert sum(grown(server, ask).values()) <= 3 * SIZE + BESIDES


@pytest.mark.alone
def test_an_answer_of_50_mb_takes_the_memory_of_three_copies_in_each_process(server):
    def ask():
        answer = httpx.post(
            f"{server.url}/models/gives/predict", json={"instances": [[2.0]]}, headers={"Accept": NPY}, timeout=60
        )
        assert answer.status_code == 200, answer.text
        assert np.array_equal(np.load(io.BytesIO(answer.content)), np.full((1, SIZE // 4), 3, np.float32))

    assert max(grown(server, ask).values()) <= 3 * SIZE + BESIDES


def test_a_body_over_the_limit_is_refused_from_its_header(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {NPY}\r\nContent-Length: {SIZE + 1001}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_examples_of_50_mb_go_one_by_one(server):
    for name in ("takes", "gives"):
        assert httpx.get(f"{server.url}/models/{name}").json()["batch_sizes"] == [1]


PROOF = """\
import ctypes
import sys
from pathlib import Path

import torch

from service.engine.model import ServedModel
from service.loader.load import load
from service.loader.repository import find_models
from tests.faults.test_large_tensors import memory

torch.set_num_threads(1)
served = ServedModel(load(find_models(Path(sys.argv[1]))["gives"]), torch.device("cpu"))
with torch.inference_mode():
    served.run_batch(served.staging.as_it_is(1))
ctypes.CDLL(None).malloc_trim(0)
Path("/proc/self/clear_refs").write_text("5")
before = memory("self", "VmRSS")
with torch.inference_mode():
    assert served.check(served.sizes).passed
print(memory("self", "VmHWM") - before)
"""


@pytest.mark.alone
def test_a_model_with_outputs_of_50_mb_is_proven_within_three_times_that(models):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROOF, str(models)],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    print(f"{int(done.stdout) >> 20} MiB")
    assert int(done.stdout) <= 3 * SIZE + BESIDES


def test_a_request_whose_answers_no_frame_holds_is_refused_with_the_number_that_fits(server):
    answer = httpx.post(f"{server.url}/models/gives/predict", json={"instances": [[1.0]] * 6}, timeout=60)
    assert answer.status_code == 413
    assert "take 300,000,000 bytes; send at most 5 at a time" in answer.json()["detail"]
