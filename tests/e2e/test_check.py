"""`gradless check`: a table for a person, JSON for a program, a record for an audit, and an exit code.

One runs as it is typed; the others in this process, in which torch has been imported, and with the controls run once.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys

import pytest
import torch

from service.commands import check as checking
from service.loader.proof import JUDGES
from tests.support.models import SMALL, make_models
from tests.support.tiny import tiny_at

#: Verdicts that this machine's user has are not looked at.
ENVIRONMENT = {"COLUMNS": "120", "GRADLESS_CACHE": "/nonexistent"}

#: The same for all, whatever models are checked.
check_control = functools.cache(checking._check_control)


@pytest.fixture
def check(monkeypatch, here):
    """Runs the command; gives what it prints on standard output and on standard error, if it ends with this code."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(checking, "keep_freed_memory", lambda: None)  # the tests that come after have theirs freed
    monkeypatch.setattr(checking, "_check_control", check_control)

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        ended, out, err = here("check", *arguments)
        assert ended == code, out + err
        assert "Traceback" not in err
        return out, err

    return run


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
    command = [sys.executable, "-m", "service", "check", "--device", "cpu", "--models", str(shipped_models)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    said = done.stdout
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


def test_a_model_that_fails_is_told_with_its_rule_and_the_exit_code_is_1(mixed, check):
    said, _ = check("--models", str(mixed), code=1)
    assert "leaves: inference-mode: broken: Inference mode was off at the operator aten." in said
    assert "drops: repeatable: broken: The same batch of 1 gave different outputs" in said
    assert "sound: untrained: warning: " in said
    assert not any(f"sound: {rule}: " in said for rule in JUDGES)


def test_verbose_says_what_each_rule_saw(mixed, check):
    said, _ = check("sound", "--models", str(mixed), "--verbose")
    assert all(f"sound: {rule}: holds: " in said for rule in JUDGES)
    assert "blends in its last answer: breaks repeatable" in said


def test_json_has_a_verdict_a_model_and_a_rule(mixed, check):
    out, _ = check("--models", str(mixed), "--json", code=1)
    found = json.loads(out)
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


def test_the_record_says_what_was_checked_with_what_and_on_what(mixed, tmp_path, check):
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


def test_a_record_that_cannot_be_written_is_told(mixed, tmp_path, check):
    _, said = check("sound", "--models", str(mixed), "--report", str(tmp_path / "no" / "out.json"), code=2)
    assert "--report" in said
    assert "No such file or directory" in said


def test_cards_that_are_wrong_are_all_told_and_the_exit_code_is_2(tmp_path, check):
    make_models(tmp_path / "models", a=SMALL.format(seed=1) + "crops = 3\n", b="weights = 'random:1'\n")
    _, said = check("--models", str(tmp_path / "models"), code=2)
    assert "a/model.toml: input.crops" in said
    assert "b/model.toml: architecture: is missing" in said


def test_weights_that_do_not_fit_are_told_for_every_model_at_once(tmp_path, check):
    for name in ("a", "b"):
        path = tiny_at(tmp_path / "models", "file:weights.pth", name=name)
        torch.save({"0.weight": torch.zeros(1)}, path / "weights.pth")
    _, said = check("--models", str(tmp_path / "models"), code=2)
    assert "a/model.toml: weights: missing from the weights: 2.weight, 2.bias" in said
    assert "b/model.toml: weights: unexpected in the weights: 0.weight" in said


def test_a_model_that_is_not_there_is_told_with_those_that_are(mixed, check):
    _, said = check("none", "--models", str(mixed), code=2)
    assert "there are drops, leaves, sound" in said


def test_a_card_that_is_wrong_and_weights_that_do_not_fit_are_a_line_among_those_of_sound_models(tmp_path, check):
    models = tmp_path / "models"
    tiny_at(models, name="sound")
    torch.save({"0.weight": torch.zeros(1)}, tiny_at(models, "file:weights.pth", name="unfit") / "weights.pth")
    make_models(models, wrong="weights = 'random:1'\n")
    out, err = check("--models", str(models), code=2)
    assert re.search(r"sound .* proven", out)
    assert len(re.findall(r"(?:unfit|wrong) .* card is wrong", out)) == 2
    assert "wrong/model.toml: architecture: is missing" in out
    assert "Controls: not run" in out
    lines = [line.partition(", ")[0] for line in err.splitlines()]
    assert lines[0] == "gradless: sound: proven"
    assert lines[1].startswith("gradless: unfit: cannot be checked: ")
    assert lines[2].startswith("gradless: wrong: cannot be checked: ")
