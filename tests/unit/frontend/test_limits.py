"""A body is read to its end and no further than its limit, whether it is there already or comes in pieces."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.requests import Request
from uvicorn.server import ServerState

from service.errors import BodyTooSlow, ClientLeft, DeadlineExceeded, Malformed, TooLarge
from service.frontend.http_connection import HttpConnection, Limits
from service.frontend.limits import read_body
from service.frontend.request_reader import WHOLE_BODY
from service.settings import Settings

LIMIT = 10.0
SETTINGS = Settings(max_body_bytes=8, body_timeout_seconds=0.2)


def part(body, more):
    return {"type": "http.request", "body": body, "more_body": more}


def read(*messages, whole=False, seconds=LIMIT, **headers):
    """What is read, by a deadline, of a body that comes as these messages, and then no more."""
    waiting = list(messages)

    async def receive():
        if not waiting:
            await asyncio.sleep(LIMIT)
        return waiting.pop(0)

    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    if whole:
        scope["extensions"] = WHOLE_BODY
    return asyncio.run(read_body(Request(scope, receive), SETTINGS, time.monotonic() + seconds))


@pytest.mark.parametrize("whole", [True, False])
def test_a_body_that_is_there_is_taken_as_it_is(whole):
    body = b"12345678"
    assert read(part(body, False), whole=whole) is body


def test_a_body_in_pieces_is_put_together():
    assert read(part(b"123", True), part(b"", True), part(b"45", True), part(b"", False)) == b"12345"


def test_a_message_may_leave_out_what_has_a_default():
    assert read(part(b"123", True), {"type": "http.request"}) == b"123"


@pytest.mark.parametrize("whole", [True, False])
def test_a_byte_too_many_is_refused_when_it_comes(whole):
    with pytest.raises(TooLarge):
        read(part(b"123456789", False), whole=whole)


def test_a_piece_too_many_is_refused_when_it_comes():
    with pytest.raises(TooLarge):
        read(part(b"12345", True), part(b"6789", True))


@pytest.mark.parametrize("first", [[], [part(b"123", True)]])
def test_who_leaves_before_the_end_is_known(first):
    with pytest.raises(ClientLeft):
        read(*first, {"type": "http.disconnect"})


@pytest.mark.parametrize("first", [[], [part(b"123", True)]])
def test_a_body_that_does_not_end_is_too_slow(first):
    with pytest.raises(BodyTooSlow):
        read(*first)


@pytest.mark.parametrize("whole", [True, False])
def test_an_empty_body_is_malformed(whole):
    with pytest.raises(Malformed):
        read(part(b"", False), whole=whole)


# Who says that it is there: the connection

HEAD = b"POST /predict HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK"


class App:
    """Answers each request; `whole` has whether its body was said to be there when its task began."""

    def __init__(self):
        self.whole = []
        self.began = asyncio.Event()

    async def __call__(self, scope, receive, send):
        self.whole.append(scope.get("extensions") is WHOLE_BODY)
        self.began.set()
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


@asynccontextmanager
async def connected():
    """An application, and a client's connection to it."""
    app, state = App(), ServerState()
    limits = Limits(LIMIT, 10, lambda refusal: None)
    config = uvicorn.Config(app, http=HttpConnection, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    server = await asyncio.get_running_loop().create_server(
        lambda: HttpConnection(limits, config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        async with asyncio.timeout(LIMIT):
            yield app, reader, writer
        writer.close()
        await writer.wait_closed()


async def answered(reader):
    return (await reader.readuntil(b"\r\n\r\n")).startswith(ANSWER)


def test_a_body_that_came_with_its_head_is_said_to_be_there_also_of_who_did_not_wait_for_an_answer():
    async def run():
        async with connected() as (app, reader, writer):
            writer.write(HEAD + b"1234")
            assert await answered(reader)
            writer.write(2 * (HEAD + b"1234"))
            assert await answered(reader)
            assert await answered(reader)
            return app.whole

    assert asyncio.run(run()) == [True, True, True]


def test_a_body_that_is_still_to_come_is_not():
    async def run():
        async with connected() as (app, reader, writer):
            writer.write(HEAD + b"12")
            await app.began.wait()
            writer.write(b"34")
            assert await answered(reader)
            return app.whole

    assert asyncio.run(run()) == [False]


@pytest.mark.parametrize("first", [[], [part(b"1", True)]])
def test_a_body_that_has_not_come_by_the_deadline_is_not_waited_for(first):
    with pytest.raises(DeadlineExceeded, match="while its body was being sent"):
        read(*first, seconds=0.05)
