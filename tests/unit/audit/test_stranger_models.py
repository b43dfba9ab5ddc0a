"""Models that some mode does not suit: what cannot be measured is told, and the rest is."""

import pytest

from service.audit.audits import run_audit
from service.errors import ConfigurationError
from service.settings import read_settings
from tests.support.tiny import tiny_at

DROPS = """\
from torch import nn


def tiny():
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 5))
"""
REFUSES_TO_TRAIN = """\
from torch import nn


class Refuses(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(192, 5)

    def forward(self, x):
        if self.training:
            raise ValueError("no targets were given")
        return self.head(x.flatten(1))


def tiny():
    return Refuses()
"""
DIES = """\
import os
import signal

from torch import nn


class Dies(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(192, 5)

    def forward(self, x):
        os.kill(os.getpid(), signal.SIGKILL)


def tiny():
    return Dies()
"""


def audited(root, code):
    tiny_at(root, code=code)
    audit = run_audit(read_settings({"models": root, "device": "cpu", "threads": 1}), None, 4)
    return {figures.mode: figures for figures in audit.modes}


def test_dropout_in_train_mode_is_seen_to_be_random_and_no_batchnorm_is_no_answer(tmp_path):
    modes = audited(tmp_path, DROPS)
    assert modes["train+grad"].repeatable is False
    assert "two answers" in modes["train+grad"].words
    assert modes["eval+grad"].repeatable is True
    assert modes["train+grad"].batchnorm_changed is None


def test_a_mode_in_which_the_model_does_not_run_is_told_and_the_others_are_measured(tmp_path):
    modes = audited(tmp_path, REFUSES_TO_TRAIN)
    assert modes["train+grad"].words == "Did not run: no targets were given"
    assert modes["train+grad"].latency_ms is None
    assert modes["eval+grad"].graph_nodes == 2  # a transposition and a product
    assert modes["served"].graph_nodes == 0


def test_a_model_that_kills_its_process_is_an_error_in_words(tmp_path):
    with pytest.raises(ConfigurationError, match="signal 9"):
        audited(tmp_path, DIES)


def test_a_model_that_is_not_there_is_told_with_those_that_are(tmp_path):
    tiny_at(tmp_path)
    with pytest.raises(ConfigurationError, match="no model 'huge'; there are tiny; or say torchvision:NAME"):
        run_audit(read_settings({"models": tmp_path}), "huge", 1)


def test_a_device_that_is_not_there_is_told(tmp_path):
    tiny_at(tmp_path)
    with pytest.raises(ConfigurationError, match="cuda:77 is not there; this machine has cpu"):
        run_audit(read_settings({"models": tmp_path, "device": "cuda:77"}), None, 1)
