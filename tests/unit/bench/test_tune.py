"""Which batch, memory format and threads are chosen from what was measured."""

from __future__ import annotations

import pytest

from service.bench.tune import choose
from service.errors import ConfigurationError
from service.loader.tuning import Timing, Tuning

TIMINGS = [
    Timing("contiguous_format", 2, 1, 0.010),
    Timing("contiguous_format", 2, 8, 0.060),
    Timing("contiguous_format", 2, 16, 0.130),
    Timing("channels_last", 2, 1, 0.008),
    Timing("channels_last", 2, 8, 0.041),
    Timing("channels_last", 2, 16, 0.080),
    Timing("channels_last", 1, 16, 0.150),
]


def test_the_smallest_batch_that_is_nearly_as_good_as_the_best_is_taken():
    assert choose(TIMINGS, 0) == Tuning("channels_last", 2, 8)  # 195/s; 16 give 200/s, and take twice as long
    assert choose(TIMINGS[:3], 0) == Tuning("contiguous_format", 2, 8)


def test_with_a_target_only_what_meets_it_is_looked_at():
    assert choose(TIMINGS, 20) == Tuning("channels_last", 2, 1)
    with pytest.raises(ConfigurationError, match=r"8\.0 ms"):
        choose(TIMINGS, 5)
