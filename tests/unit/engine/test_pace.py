"""How long batches take is learned, and when an engine will be done is told from it."""

import pytest

from service.engine.pace import Pace
from service.frontend.engines.forecast import Forecast


def known(measured):
    """A pace that has seen one batch of each size."""
    pace = Pace()
    for model, sizes in measured.items():
        for size, seconds in sizes.items():
            pace.record(model, size, seconds)
    return pace


def test_nothing_is_known_before_the_first_batch():
    pace = Pace()
    assert (pace.example_seconds("m"), pace.shortest("m", 8), pace.longest("m")) == (0.0, 0.0, 0.0)


def test_one_more_example_costs_its_share_of_the_largest_batch():
    pace = known({"m": {1: 0.1, 8: 0.4}})
    assert pace.example_seconds("m") == pytest.approx(0.05)


def test_the_average_follows_and_the_extremes_stay():
    pace = known({"m": {8: 0.4}})
    for _ in range(50):
        pace.record("m", 8, 0.8)
    assert pace.example_seconds("m") == pytest.approx(0.1, rel=1e-3)
    assert (pace.shortest("m", 8), pace.longest("m")) == (0.4, 0.8)


def test_of_a_size_that_never_ran_the_next_smaller_one_tells_the_least():
    pace = known({"m": {1: 0.1, 4: 0.3}})
    assert [pace.shortest("m", size) for size in (0, 1, 2, 4, 8)] == [0.0, 0.1, 0.1, 0.3, 0.3]


def test_one_slow_batch_moves_the_average_a_little():
    pace = known({"m": {1: 0.1}})
    pace.record("m", 1, 1.1)
    assert pace.example_seconds("m") == pytest.approx(0.3)


def test_what_is_sent_is_waited_for_and_time_passes():
    forecast = Forecast({"m": 0.5})
    forecast.sent(100.0, "m", 4)
    assert forecast.wait(100.0, "m") == pytest.approx(2.0)
    assert forecast.wait(101.5, "m") == pytest.approx(0.5)
    assert forecast.wait(200.0, "m") == 0.0


def test_what_the_engine_tells_replaces_what_was_reckoned():
    forecast = Forecast({"m": 0.5})
    forecast.sent(100.0, "m", 4)
    forecast.told(100.1, "m", 7.0, 0.25)
    assert forecast.wait(100.1, "m") == pytest.approx(7.0)
    assert forecast.cost("m", 4) == 1.0


def test_of_a_model_that_nobody_measured_nothing_is_expected():
    forecast = Forecast({})
    forecast.sent(100.0, "m", 4)
    assert forecast.wait(100.0, "m") == 0.0


def test_a_flood_of_one_model_is_no_long_wait_for_another():
    pace = known({"calm": {8: 0.8}, "flood": {8: 0.8}})
    waiting, caps = {"calm": 8, "flood": 800}, {"calm": 8, "flood": 8}
    assert pace.backlog_seconds("calm", waiting, caps) == pytest.approx(0.8 + 2 * 0.8)
    assert pace.backlog_seconds("flood", waiting, caps) == pytest.approx(80 + 0.8)
    assert pace.backlog_seconds("calm", {"calm": 0, "flood": 3}, caps) == pytest.approx(0.3)


def test_the_load_of_an_engine_is_that_of_all_its_models():
    forecast = Forecast({"m": 0.5, "n": 0.25})
    forecast.sent(100.0, "m", 2)
    forecast.sent(100.0, "n", 2)
    assert (forecast.wait(100.0, "n"), forecast.load(100.0)) == (0.5, 1.5)
