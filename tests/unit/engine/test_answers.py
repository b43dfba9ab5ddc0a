"""Answers from the worker's thread: whole, in order, and none lost where the reader is slow."""

import asyncio
import contextlib
import socket
import sys

import pytest
import uvloop

from service.engine.answers import Answers
from service.wire.framing import FrameReader
from service.wire.messages import Cancel, Failure

LIMIT = 20.0
#: More than two sockets' buffers hold.
MANY = 20_000
#: Of so many bytes, a frame is often taken in part.
MANY_LARGE, LARGE = 5_000, 60_000


class Reader:
    """The other end, which reads when it is told to."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.settimeout(LIMIT)
        self._frames = FrameReader()

    def read(self, count):
        found = []
        while len(found) < count:
            received = self._end.recv_into(self._frames.room())
            assert received
            found += self._frames.received(received)
        return found


@contextlib.asynccontextmanager
async def connected():
    """Answers on one end of a connection, and a reader on the other."""
    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = await asyncio.get_running_loop().create_unix_connection(asyncio.Protocol, sock=ours)
        answers = Answers(transport)
        yield transport, answers, Reader(theirs)
        answers.close()
        transport.close()


def run_loop(main):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def written(answers):
    async with asyncio.timeout(LIMIT):
        while answers._handed_over:
            await asyncio.sleep(0.005)


def test_the_loop_has_nothing_to_do_with_an_answer_that_fits():
    async def run():
        async with connected() as (_, answers, reader):
            answers.send([Cancel(1), Cancel(2)])
            return reader.read(2)  # no turn of the loop in between

    assert run_loop(run()) == [Cancel(1), Cancel(2)]


def test_what_a_full_socket_does_not_take_follows_in_order_and_then_it_is_written_at_once_again():
    frames = [Failure(number, "busy", "x" * 100) for number in range(MANY)]

    async def run():
        async with connected() as (_, answers, reader):
            for frame in frames:
                answers.send([frame])
            assert answers._handed_over  # otherwise this test is none
            found = reader.read(10)  # there is room again, and the loop has not had a turn
            answers.send([Cancel(6)])
            found += await asyncio.to_thread(reader.read, MANY + 1 - len(found))
            await written(answers)
            answers.send([Cancel(7)])
            return found, reader.read(1)

    assert run_loop(run()) == ([*frames, Cancel(6)], [Cancel(7)])


@pytest.fixture
def restless():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_frames_of_two_threads_do_not_mingle():
    async def run():
        async with connected() as (_, answers, reader):

            def send(first):
                for number in range(first, first + MANY_LARGE):
                    answers.send([Failure(number, "busy", "x" * LARGE)])

            sending = [asyncio.to_thread(send, first) for first in (0, MANY_LARGE)]
            found, *_ = await asyncio.gather(asyncio.to_thread(reader.read, 2 * MANY_LARGE), *sending)
            return [frame.id for frame in found]

    ids = run_loop(run())
    assert [number for number in ids if number < MANY_LARGE] == list(range(MANY_LARGE))
    assert [number for number in ids if number >= MANY_LARGE] == list(range(MANY_LARGE, 2 * MANY_LARGE))


@pytest.mark.parametrize("gone", ["ours", "theirs"])
def test_a_connection_that_has_ended_drops_answers(gone):
    async def run():
        async with connected() as (transport, answers, reader):
            if gone == "ours":
                transport.close()
                answers.close()
            else:
                reader._end.close()
            answers.send([Cancel(1)])
            answers.send([Cancel(2)])
            if gone == "ours":
                assert await asyncio.to_thread(reader._end.recv, 1) == b""  # its end, and nothing before it
            else:
                async with asyncio.timeout(LIMIT):
                    while not transport.is_closing():
                        await asyncio.sleep(0.005)

    run_loop(run())
