"""What an answer is written to: one packet where uvicorn writes twice."""

from __future__ import annotations

import asyncio

import pytest

from service.frontend.outgoing import Outgoing

HEAD, BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", b"{}"


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.ended = 0

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return bool(self.ended)

    def end(self) -> None:
        self.ended = len(self.written) + 1


@pytest.fixture
def transport() -> Transport:
    return Transport()


def in_a_loop(transport: Transport, *steps: str | bytes) -> None:
    async def run() -> None:
        outgoing = Outgoing(transport, transport.end)
        for step in steps:
            if step == "turn":
                await asyncio.sleep(0)
            elif step == "close":
                outgoing.close()
            else:
                outgoing.write(step)
        await asyncio.sleep(0)

    asyncio.run(run())


def test_a_head_leaves_with_its_body(transport):
    in_a_loop(transport, HEAD, BODY, HEAD, BODY)
    assert transport.written == [HEAD + BODY] * 2


def test_a_head_without_a_body_leaves_when_the_turn_ends(transport):
    in_a_loop(transport, HEAD, "turn", BODY)
    assert transport.written == [HEAD, BODY]


def test_what_is_held_leaves_before_the_end(transport):
    in_a_loop(transport, HEAD, "close")
    assert transport.written == [HEAD]
    assert transport.ended == 2  # after it


def test_pieces_of_a_body_and_a_go_ahead_are_not_held(transport):
    in_a_loop(transport, b"HTTP/1.1 100 Continue\r\n\r\n", HEAD, BODY, b"more", b"more")
    assert transport.written == [b"HTTP/1.1 100 Continue\r\n\r\n", HEAD + BODY, b"more", b"more"]
