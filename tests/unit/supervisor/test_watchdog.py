"""The watchdog reads a clock and a file; what it says of them is what is tested here."""

import pytest

from service.supervisor.watchdog import overdue
from service.wire.aboard import Aboard, LastSeen, make_aboard_file, read_aboard


@pytest.fixture
def engine():
    file = make_aboard_file()
    aboard = Aboard(file)
    aboard.pulse(100.0)
    return file, aboard


def test_who_was_aboard_is_read_after_the_death(engine):
    file, aboard = engine
    aboard.board([7, 9])
    aboard.due(130.0)
    assert read_aboard(file) == LastSeen(0, 130.0, 100.0, [7, 9])
    aboard.clear()
    assert read_aboard(file) == LastSeen(1, 0.0, 100.0, [])


def test_of_an_engine_that_has_said_nothing_nothing_is_known():
    file = make_aboard_file()
    assert read_aboard(file) == LastSeen()
    assert overdue(file, 1e9, 1.0) == ""


def test_an_engine_with_a_pulse_is_left_alone(engine):
    file, _ = engine
    assert overdue(file, 109.9, 10.0) == ""


def test_a_silent_engine_is_overdue(engine):
    file, aboard = engine
    assert overdue(file, 111.0, 10.0) == "no pulse for 11.0 s"
    aboard.pulse(110.9)
    assert overdue(file, 111.0, 10.0) == ""


def test_a_forward_past_its_limit_is_overdue_however_lively_the_pulse(engine):
    file, aboard = engine
    aboard.board([7])
    aboard.due(105.0)
    aboard.pulse(105.9)
    assert overdue(file, 104.9, 10.0) == ""
    assert overdue(file, 106.0, 10.0) == "a forward is 1.0 s past its limit"
    aboard.clear()
    assert overdue(file, 106.0, 10.0) == ""


def test_an_engine_that_loads_may_be_silent_but_not_for_ever(engine):
    file, aboard = engine
    with aboard.silent():
        aboard.pulse(100.0)
        assert overdue(file, 1e9, 10.0) == ""
        aboard.due(700.0)
        assert overdue(file, 701.0, 10.0) == "a forward is 1.0 s past its limit"
        aboard.due(0.0)
    aboard.pulse(800.0)
    assert overdue(file, 811.0, 10.0) == "no pulse for 11.0 s"
