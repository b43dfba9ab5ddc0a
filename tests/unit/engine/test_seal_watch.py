"""Every weight is hashed within a minute of an idle worker's time, and a busy one is hardly held up."""

import pytest

from service.engine import seal_watch as seal_watch_module
from service.engine.seal_watch import BUSY_SHARE, IDLE_AFTER_SECONDS, REST_SECONDS, SealWatch


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(seal_watch_module, "time", clock)
    return clock


class Slow:
    """A guard whose steps take 10 ms each by the clock."""

    def __init__(self, clock, steps=3):
        self.clock, self.steps, self.passes = clock, steps, 0

    def verify_once(self):
        for _ in range(self.steps):
            self.clock.now += 0.01
            yield
        self.passes += 1


def ran(watch, clock, seconds, busy):
    """The share of so many seconds that hashing took."""
    end, took = clock.now + seconds, 0.0
    while clock.now < end:
        if busy:
            watch.worked()
        if watch.due_in() == 0:
            before = clock.now
            watch.step()
            took += clock.now - before
        clock.now += 0.005
    return took / seconds


def test_under_load_hashing_takes_at_most_a_hundredth_of_the_time(clock):
    share = ran(SealWatch([Slow(clock, steps=1000)]), clock, 100, busy=True)
    assert BUSY_SHARE / 2 < share <= BUSY_SHARE


def test_an_idle_worker_hashes_every_weight_within_a_minute(clock):
    guards = [Slow(clock, steps=100), Slow(clock, steps=100)]
    ran(SealWatch(guards), clock, 60, busy=False)
    assert all(guard.passes >= 1 for guard in guards)


def test_between_two_passes_it_rests(clock):
    guard = Slow(clock, steps=1)
    ran(SealWatch([guard]), clock, 10 * REST_SECONDS, busy=False)
    assert 8 <= guard.passes <= 11


def test_a_worker_is_idle_only_some_time_after_its_last_batch(clock):
    watch = SealWatch([Slow(clock, steps=10)])
    watch.step()
    watch.worked()
    assert watch.due_in() == pytest.approx(0.01 * (1 / BUSY_SHARE - 1))
    clock.now += IDLE_AFTER_SECONDS
    assert watch.due_in() == 0


def test_with_no_model_there_is_nothing_to_hash():
    assert SealWatch([]).due_in() is None


def test_a_guard_that_is_added_later_is_verified_too(clock):
    first, later = Slow(clock, steps=5), Slow(clock, steps=5)
    watch = SealWatch([first])
    ran(watch, clock, 30, busy=False)
    watch.add(later)
    ran(watch, clock, 60, busy=False)
    assert later.passes > 0
