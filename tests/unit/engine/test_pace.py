"""How long batches take is learned, and when an engine will be done is told from it."""

import pytest

from service.engine.forecast import Forecast
from service.engine.pace import Pace


def test_nothing_is_known_before_the_first_batch():
    pace = Pace({})
    assert (pace.example_seconds("m"), pace.shortest("m"), pace.longest("m")) == (0.0, 0.0, 0.0)


def test_one_more_example_costs_its_share_of_the_largest_batch():
    pace = Pace({"m": {1: 0.1, 8: 0.4}})
    assert pace.example_seconds("m") == pytest.approx(0.05)


def test_the_average_follows_and_the_extremes_stay():
    pace = Pace({"m": {8: 0.4}})
    for _ in range(50):
        pace.record("m", 8, 0.8)
    assert pace.example_seconds("m") == pytest.approx(0.1, rel=1e-3)
    assert (pace.shortest("m"), pace.longest("m")) == (0.4, 0.8)


def test_one_slow_batch_moves_the_average_a_little():
    pace = Pace({"m": {1: 0.1}})
    pace.record("m", 1, 1.1)
    assert pace.example_seconds("m") == pytest.approx(0.3)


def test_what_is_sent_is_waited_for_and_time_passes():
    forecast = Forecast({"m": 0.5})
    forecast.sent(100.0, "m", 4)
    assert forecast.wait(100.0) == pytest.approx(2.0)
    assert forecast.wait(101.5) == pytest.approx(0.5)
    assert forecast.wait(200.0) == 0.0


def test_what_the_engine_tells_replaces_what_was_reckoned():
    forecast = Forecast({"m": 0.5})
    forecast.sent(100.0, "m", 4)
    forecast.told(100.1, "m", 7.0, 0.25)
    assert forecast.wait(100.1) == pytest.approx(7.0)
    assert forecast.cost("m", 4) == 1.0


def test_of_a_model_that_nobody_measured_nothing_is_expected():
    forecast = Forecast({})
    forecast.sent(100.0, "m", 4)
    assert forecast.wait(100.0) == 0.0
