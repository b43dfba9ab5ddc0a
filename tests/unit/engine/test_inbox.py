"""The event loop's news reach the batcher and the order, in the order in which they came."""

import threading
import time

from service.engine.batcher import Batcher, Request
from service.engine.bring_up_order import BringUpOrder
from service.engine.inbox import Inbox


def inbox():
    batcher, order = Batcher({"m": 4}), BringUpOrder(["a", "b"], "a")
    return Inbox(batcher, order), batcher, order


def test_nothing_is_handed_on_before_it_is_taken_in():
    filled, batcher, order = inbox()
    filled.submit(Request(1, "m", 2, 1e9))
    filled.submit(Request(2, "m", 1, 1e9))
    filled.cancel(2)
    filled.want("b")
    assert (len(batcher), order.next()) == (0, "a")
    filled.take_in()
    assert (len(batcher), order.next()) == (2, "b")
    assert [request.id for request in batcher.drop_gone(0.0)] == [2]


def test_a_request_counts_as_waiting_from_when_it_came():
    filled, batcher, _ = inbox()
    before = time.monotonic()
    request = Request(1, "m", 1, 1e9)
    filled.submit(request)
    after = time.monotonic()
    filled.take_in()
    assert before <= request.added <= after
    assert len(batcher) == 1


def test_to_wait_ends_with_what_comes_or_with_the_time():
    filled, batcher, _ = inbox()
    filled.wait(0.01)
    assert len(batcher) == 0
    coming = threading.Timer(0.05, filled.submit, [Request(1, "m", 1, 1e9)])
    coming.start()
    filled.wait(None)
    coming.join()
    assert len(batcher) == 1
