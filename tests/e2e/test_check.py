"""`gradless check`: a table for a person, JSON for a program, a record for an audit, and an exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch

from service.loader.proof import JUDGES
from tests.support.models import SMALL, make_models
from tests.support.tiny import tiny_at

#: Verdicts that this machine's user has are not looked at.
ENVIRONMENT = os.environ | {"COLUMNS": "120", "GRADLESS_CACHE": "/nonexistent"}


def check(*arguments: str, code: int = 0) -> str:
    """What the command prints, if it ends with this code; to stderr where it is used wrongly."""
    command = [sys.executable, "-m", "service", "check", "--device", "cpu", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=ENVIRONMENT)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code == 2 else done.stdout


#: A forward that leaves inference mode, and one that drops at random.
LEAVES = "torch.inference_mode(False)(torch.ones)(1).add(1); return self.last(x.flatten(1))"
DROPS = "return self.last(torch.dropout(x.flatten(1), 0.5, True))"
MODEL = """\
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(192, 5)

    def forward(self, x):
        {}


def tiny():
    return Tiny()
"""


def with_forward(root, name, line):
    path = tiny_at(root, "file:weights.pth", code=MODEL.format(line), name=name)
    torch.manual_seed(1)
    torch.save(torch.nn.Linear(192, 5).state_dict(prefix="last."), path / "weights.pth")


def test_the_default_model_is_proven_in_a_table_that_says_so(shipped_models):
    said = check("--models", str(shipped_models))
    assert "efficientnet_lite0" in said
    assert "proven" in said
    assert "8 of 8" in said
    assert "broken ones caught, each by exactly its rules" in said


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    root = tmp_path_factory.mktemp("check") / "models"
    tiny_at(root, name="sound")
    with_forward(root, "leaves", LEAVES)
    with_forward(root, "drops", DROPS)
    return root


def test_a_model_that_fails_is_told_with_its_rule_and_the_exit_code_is_1(mixed):
    said = check("--models", str(mixed), code=1)
    assert "leaves: inference-mode: broken: Inference mode was off at the operator aten." in said
    assert "drops: repeatable: broken: The same batch of 1 gave different outputs" in said
    assert "sound: untrained: warning: " in said
    assert not any(f"sound: {rule}: " in said for rule in JUDGES)


def test_verbose_says_what_each_rule_saw(mixed):
    said = check("sound", "--models", str(mixed), "--verbose")
    assert all(f"sound: {rule}: holds: " in said for rule in JUDGES)
    assert "blends in its last answer: breaks repeatable" in said


def test_json_has_a_verdict_a_model_and_a_rule(mixed):
    found = json.loads(check("--models", str(mixed), "--json", code=1))
    assert {model["model"]: model["passed"] for model in found["models"]} == {
        "drops": False,
        "leaves": False,
        "sound": True,
    }
    for model in found["models"]:
        assert [rule["rule"] for rule in model["rules"]] == list(JUDGES)
        assert all(rule["detail"] for rule in model["rules"])
    assert found["controls"]["run"] > 35
    assert found["controls"]["missed"] == []


def test_the_record_says_what_was_checked_with_what_and_on_what(mixed, tmp_path):
    check("sound", "--models", str(mixed), "--report", str(tmp_path / "out.json"))
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["passed"] is True
    assert record["versions"]["torch"] == torch.__version__
    assert record["machine"]["processor"]
    [model] = record["models"]
    assert len(model["seal"]) == 64
    assert model["card"]["weights"] == "random:1"
    assert model["figures"]["sizes"] == [1, 2, 4, 8]
    assert {tuple(c["breaks"]) == tuple(c["broken"]) for c in record["controls"]} == {True}


def test_a_record_that_cannot_be_written_is_told(mixed, tmp_path):
    said = check("sound", "--models", str(mixed), "--report", str(tmp_path / "no" / "out.json"), code=2)
    assert "--report" in said
    assert "No such file or directory" in said


def test_cards_that_are_wrong_are_all_told_and_the_exit_code_is_2(tmp_path):
    make_models(tmp_path / "models", a=SMALL.format(seed=1) + "crops = 3\n", b="weights = 'random:1'\n")
    said = check("--models", str(tmp_path / "models"), code=2)
    assert "a/model.toml: input.crops" in said
    assert "b/model.toml: architecture: is missing" in said


def test_weights_that_do_not_fit_are_told_for_every_model_at_once(tmp_path):
    for name in ("a", "b"):
        path = tiny_at(tmp_path / "models", "file:weights.pth", name=name)
        torch.save({"0.weight": torch.zeros(1)}, path / "weights.pth")
    said = check("--models", str(tmp_path / "models"), code=2)
    assert "a/model.toml: weights: missing from the weights: 2.weight, 2.bias" in said
    assert "b/model.toml: weights: unexpected in the weights: 0.weight" in said


def test_a_model_that_is_not_there_is_told_with_those_that_are(mixed):
    assert "there are drops, leaves, sound" in check("none", "--models", str(mixed), code=2)


def test_a_card_that_is_wrong_and_weights_that_do_not_fit_are_a_line_among_those_of_sound_models(tmp_path):
    models = tmp_path / "models"
    tiny_at(models, name="sound")
    torch.save({"0.weight": torch.zeros(1)}, tiny_at(models, "file:weights.pth", name="unfit") / "weights.pth")
    make_models(models, wrong="weights = 'random:1'\n")
    command = [sys.executable, "-m", "service", "check", "--device", "cpu", "--models", str(models)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=ENVIRONMENT)
    assert done.returncode == 2
    assert re.search(r"sound .* proven", done.stdout)
    assert len(re.findall(r"(?:unfit|wrong) .* card is wrong", done.stdout)) == 2
    assert "wrong/model.toml: architecture: is missing" in done.stdout
    assert "Controls: not run" in done.stdout
    lines = [line.partition(", ")[0] for line in done.stderr.splitlines()]
    assert lines[0] == "gradless: sound: proven"
    assert lines[1].startswith("gradless: unfit: cannot be checked: ")
    assert lines[2].startswith("gradless: wrong: cannot be checked: ")
