"""The example as it is run: trained, written, served; and the served answers are the trainer's own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "transfer_learning.py"
#: Of a probability. The server normalises and lays out the batch in its own way, which rounds otherwise.
TOLERANCE = 1e-5
#: Beside other tests, threads that wait in a loop made 7 seconds of training 100.
CALM = os.environ | {"OMP_WAIT_POLICY": "passive"}


def trained(out, *flags):
    """What the script prints; its model is in `out`/models/digits, its pictures and answers in `out`/samples."""
    places = ["--out", out / "models" / "digits", "--samples", out / "samples"]
    command = [sys.executable, "-W", "error", SCRIPT, *places, *flags]
    done = subprocess.run(list(map(str, command)), env=CALM, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    """The default model's backbone, with its real weights."""
    out = tmp_path_factory.mktemp("lite0")
    return out, trained(out, "--backbone", "efficientnet_lite0")


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory):
    """VGG16, kept small: 32 x 32 pixels, and random features, which need no download."""
    out = tmp_path_factory.mktemp("vgg16")
    return out, trained(out, "--random", "--side", "32", "--train", "100", "--test", "50")


def percentages(printed):
    return [float(found) for found in re.findall(r"([\d.]+)%", printed)]


def test_real_features_reach_an_accuracy_that_random_ones_do_not(lite0):
    real, random = percentages(lite0[1])
    assert real > 75
    assert random < real - 30


def test_the_classifier_alone_trains_and_next_to_nothing_is_saved(lite0, vgg16):
    for (_, printed), trains, frozen in ((lite0, "12,810", "3,371,008"), (vgg16, "250,890", "14,714,688")):
        assert f"parameters: {trains} train, {frozen} are frozen" in printed
        found = re.search(r"([\d,]+) bytes frozen, ([\d,]+) unfrozen", printed)
        with_freezing, without_freezing = (int(size.replace(",", "")) for size in found.groups())
        assert 0 < with_freezing < without_freezing / 50


def test_vgg16_learns_on_features_that_never_did(vgg16):
    (random,) = percentages(vgg16[1])
    assert random > 30, "a guess is right one time in ten"


def served(serve, out):
    """The proof and the model card as the server shows them, and its answer to each picture."""
    server = serve(out / "models")
    server.wait_ready(60)
    shown = httpx.get(f"{server.url}/models/digits").json()
    proof = httpx.get(f"{server.url}/models/digits/proof").json()
    answers = {}
    for file in sorted((out / "samples").glob("*.png")):
        headers, query = {"Content-Type": "image/png"}, {"top_k": 10}
        answer = httpx.post(
            f"{server.url}/predict", content=file.read_bytes(), headers=headers, params=query, timeout=60
        )
        assert answer.status_code == 200, answer.text
        classes = answer.json()["predictions"][0]["classes"]
        answers[file.name] = {entry["label"]: entry["probability"] for entry in classes}
    return shown, proof, answers


@pytest.mark.parametrize("backbone", ["lite0", "vgg16"])
def test_the_served_answers_are_the_trainers_own_and_the_proof_holds(backbone, serve, request):
    out, _ = request.getfixturevalue(backbone)
    shown, proof, answers = served(serve, out)
    expected = json.loads((out / "samples" / "answers.json").read_text())
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
