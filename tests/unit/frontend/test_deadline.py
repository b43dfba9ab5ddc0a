"""A deadline holds for whatever is going on when it comes."""

from __future__ import annotations

import asyncio
import time

import pytest

from service.errors import DeadlineExceeded
from service.frontend.limits import by_deadline


def run(work):
    return asyncio.run(work)


def test_what_is_done_in_time_is_returned():
    async def work():
        return await by_deadline(time.monotonic() + 60, "at work", asyncio.sleep(0, "done"))

    assert run(work()) == "done"


@pytest.mark.parametrize("ahead", [0.01, 0, -1])
def test_what_is_not_done_by_then_is_given_up_and_the_words_say_what_it_was(ahead):
    given_up = []

    async def forever():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up.append(True)
            raise

    async def work():
        await by_deadline(time.monotonic() + ahead, "at work", forever())

    with pytest.raises(DeadlineExceeded, match="The deadline of the request passed at work"):
        run(work())
    assert given_up


def test_a_time_limit_of_the_work_itself_is_not_the_deadline():
    async def impatient():
        raise TimeoutError("its own")

    async def work():
        await by_deadline(time.monotonic() + 60, "at work", impatient())

    with pytest.raises(TimeoutError, match="its own"):
        run(work())


def test_a_client_that_leaves_is_still_told_apart():
    async def work():
        task = asyncio.ensure_future(by_deadline(time.monotonic() + 60, "at work", asyncio.Event().wait()))
        await asyncio.sleep(0)
        task.cancel("client_left")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        return caught.value.args

    assert run(work()) == ("client_left",)
