"""A place for each example and for each of its bytes, given back however a request ends."""

import contextlib
import time

import pytest

from service.errors import Overloaded
from service.frontend.engines.places import Outlook, Places, places_of
from service.settings import Settings

FAR = 1e9
MOST_BYTES = 1000


@pytest.fixture
def places():
    return Places(4, MOST_BYTES)


def is_let_in(places, count, nbytes):
    with contextlib.suppress(Overloaded), places.hold(count, nbytes, Outlook(), FAR):
        return True
    return False


def test_as_many_bytes_are_let_in_as_may_wait_and_no_more(places):
    with places.hold(1, 400, Outlook(), FAR), places.hold(1, 400, Outlook(), FAR):
        assert is_let_in(places, 1, 200)
        assert not is_let_in(places, 1, 201)
    assert is_let_in(places, 1, MOST_BYTES)


def test_the_words_say_how_many_bytes_wait(places):
    with (
        places.hold(1, MOST_BYTES, Outlook(), FAR),
        pytest.raises(Overloaded, match=r"The inputs that are waiting take 1,000 bytes; the most is 1,000\."),
        places.hold(1, 1, Outlook(), FAR),
    ):
        pass


def test_a_request_that_is_larger_than_all_that_may_wait_is_let_in_when_nothing_else_waits(places):
    with places.hold(1, 5 * MOST_BYTES, Outlook(), FAR):
        assert not is_let_in(places, 1, 1)
        assert not is_let_in(places, 1, 5 * MOST_BYTES)
    with places.hold(1, 1, Outlook(), FAR):
        assert not is_let_in(places, 1, 5 * MOST_BYTES)
    assert is_let_in(places, 1, 5 * MOST_BYTES)


def test_places_are_given_back_when_a_request_fails_and_not_twice(places):
    with pytest.raises(KeyError), places.hold(4, MOST_BYTES, Outlook(), FAR):
        raise KeyError
    assert places.taken == 0
    with places.hold(4, MOST_BYTES, Outlook(), FAR):
        assert not is_let_in(places, 1, 0)
        assert not is_let_in(places, 0, 1)
        assert places.taken == 4


def test_one_that_is_refused_takes_nothing(places):
    late = Outlook(wait=60.0, batch=1.0)
    with pytest.raises(Overloaded, match="An answer would take about 67"), places.hold(4, 1000, late, time.monotonic()):
        pass
    assert not is_let_in(places, 5, 0)
    assert is_let_in(places, 4, MOST_BYTES)


def test_the_settings_say_how_many_examples_and_bytes_there_are_places_for():
    places = places_of(Settings(max_queued_examples=2, max_queued_bytes=1 << 20))
    with places.hold(1, 1 << 19, Outlook(), FAR):
        assert [is_let_in(places, 1, 1 << 19), is_let_in(places, 1, (1 << 19) + 1)] == [True, False]
        assert not is_let_in(places, 2, 0)
