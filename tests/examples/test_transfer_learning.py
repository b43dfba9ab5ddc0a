"""The example as it is run: trained, written, served; and the served answers are the trainer's own."""

import contextlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch

from tests.support.server import Server

SCRIPT = Path(__file__).parents[2] / "examples" / "transfer_learning.py"
#: Of a probability. The server normalises and lays out the batch in its own way, which rounds otherwise.
TOLERANCE = 1e-5
#: Beside other tests, threads that wait in a loop for each other made 7 seconds of training 100: here one has no other.
CALM = os.environ | {"OMP_NUM_THREADS": "1"}


def places(out, name):
    """The script's model is in `out`/models/`name`, its pictures and answers in `out`/samples/`name`."""
    return ["--out", str(out / "models" / name), "--samples", str(out / "samples" / name)]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("transfer")


@pytest.fixture(scope="module")
def lite0(out):
    """What the script prints of the default model's backbone, with its real weights."""
    flags = [*places(out, "lite0"), "--backbone", "efficientnet_lite0", "--train", "200", "--test", "150"]
    command = [sys.executable, "-W", "error", str(SCRIPT), *flags]
    done = subprocess.run(command, env=CALM, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def vgg16(out):
    """The same of VGG16, kept small: 32 x 32 pixels, and random features, which need no download; in this process."""
    flags = [*places(out, "vgg16"), "--random", "--side", "32", "--train", "100", "--test", "50"]
    torch.set_num_threads(1)  # which waits for no other
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [str(SCRIPT), *flags])
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return printed.getvalue()


def percentages(printed):
    return [float(found) for found in re.findall(r"([\d.]+)%", printed)]


def test_real_features_reach_an_accuracy_that_random_ones_do_not(lite0):
    real, random = percentages(lite0)
    assert real > 75
    assert random < real - 30


def test_the_classifier_alone_trains_and_next_to_nothing_is_saved(lite0, vgg16):
    for printed, trains, frozen in ((lite0, "12,810", "3,371,008"), (vgg16, "250,890", "14,714,688")):
        assert f"parameters: {trains} train, {frozen} are frozen" in printed
        found = re.search(r"([\d,]+) bytes frozen, ([\d,]+) unfrozen", printed)
        with_freezing, without_freezing = (int(size.replace(",", "")) for size in found.groups())
        assert 0 < with_freezing < without_freezing / 50


def test_vgg16_learns_on_features_that_never_did(vgg16):
    (random,) = percentages(vgg16)
    assert random > 30, "a guess is right one time in ten"


@pytest.fixture(scope="module")
def server(out, lite0, vgg16):
    """One for both."""
    with Server(out / "models", "--default-model", "lite0") as running:
        yield running.started()


def served(server, samples, name):
    """The proof and the model card as the server shows them, and its answer to each picture."""
    server.wait_ready(60)
    shown = httpx.get(f"{server.url}/models/{name}").json()
    proof = httpx.get(f"{server.url}/models/{name}/proof").json()
    answers = {}
    for file in sorted(samples.glob("*.png")):
        headers, query = {"Content-Type": "image/png"}, {"top_k": 10}
        answer = httpx.post(
            f"{server.url}/models/{name}/predict", content=file.read_bytes(), headers=headers, params=query, timeout=60
        )
        assert answer.status_code == 200, answer.text
        classes = answer.json()["predictions"][0]["classes"]
        answers[file.name] = {entry["label"]: entry["probability"] for entry in classes}
    return shown, proof, answers


@pytest.mark.parametrize("backbone", ["lite0", "vgg16"])
def test_the_served_answers_are_the_trainers_own_and_the_proof_holds(backbone, server, out):
    samples = out / "samples" / backbone
    shown, proof, answers = served(server, samples, backbone)
    expected = json.loads((samples / "answers.json").read_text())
    assert len(answers) == len(expected) == 12
    for name, row in expected.items():
        assert {digit: answers[name][str(digit)] for digit in range(10)} == pytest.approx(
            dict(enumerate(row)), abs=TOLERANCE
        )
    assert all(rule["passed"] for rule in proof["rules"])
    assert len({max(answer, key=answer.get) for answer in answers.values()}) > 2, "not the same answer to everything"
    assert shown["card"]["training"]["frozen"] == (
        ["features"] if backbone == "vgg16" else ["_conv_stem", "_bn0", "_blocks", "_conv_head", "_bn1"]
    )
