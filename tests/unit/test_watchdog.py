"""The watchdog reads a clock and a file; what it says of them is what is tested here."""

import pytest

from service.engine.aboard import Aboard, Seen, read_aboard
from service.watchdog import overdue


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "engine.aboard"
    aboard = Aboard(path)
    aboard.pulse(100.0)
    return path, aboard


def test_who_was_aboard_is_read_after_the_death(engine):
    path, aboard = engine
    aboard.board([7, 9])
    aboard.due(130.0)
    assert read_aboard(path) == Seen(0, 130.0, 100.0, [7, 9])
    aboard.clear()
    assert read_aboard(path) == Seen(1, 0.0, 100.0, [])


def test_of_no_file_nothing_is_known(tmp_path):
    assert read_aboard(tmp_path / "none") == Seen()
    assert overdue(tmp_path / "none", 1e9, 1.0) == ""


def test_an_engine_with_a_pulse_is_left_alone(engine):
    path, _ = engine
    assert overdue(path, 109.9, 10.0) == ""


def test_a_silent_engine_is_overdue(engine):
    path, aboard = engine
    assert overdue(path, 111.0, 10.0) == "no pulse for 11.0 s"
    aboard.pulse(110.9)
    assert overdue(path, 111.0, 10.0) == ""


def test_a_forward_past_its_limit_is_overdue_however_lively_the_pulse(engine):
    path, aboard = engine
    aboard.board([7])
    aboard.due(105.0)
    aboard.pulse(105.9)
    assert overdue(path, 104.9, 10.0) == ""
    assert overdue(path, 106.0, 10.0) == "a forward is 1.0 s past its limit"
    aboard.clear()
    assert overdue(path, 106.0, 10.0) == ""
