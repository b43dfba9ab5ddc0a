"""What a start says on a terminal; a log has a line for each model from its engine."""

import io
import sys

import pytest

from service.supervisor.summary import StartUp
from service.wire.messages import ModelState

STATES = [ModelState("a", "ready"), ModelState("b", "loading"), ModelState("c", "failed")]


class Standard(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.isatty = lambda: terminal


@pytest.fixture
def said(monkeypatch, request):
    monkeypatch.setenv("TERM", "xterm")
    stream = Standard(request.param)
    monkeypatch.setattr(sys, "stderr", stream)
    StartUp().show(STATES)
    return stream.getvalue()


@pytest.mark.parametrize("said", [True], indirect=True)
def test_on_a_terminal_a_bar_says_how_many_models_are_done_and_leaves_its_line_to_the_next(said):
    assert "2 of 3 models" in said
    assert said.endswith("\r")
    assert "\n" not in said


@pytest.mark.parametrize("said", [False], indirect=True)
def test_in_a_log_there_is_no_bar(said):
    assert said == ""
