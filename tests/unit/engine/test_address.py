"""A socket that somebody removes is put back, and who is connected notices nothing."""

from __future__ import annotations

import asyncio
import shutil
import socket
from pathlib import Path

import pytest
import uvloop
from structlog.testing import capture_logs

from service.engine.address import LOOK_SECONDS, Address

LIMIT = 10.0


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def until(condition) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.01)


async def echo(connection, data: bytes) -> bytes:
    reader, writer = connection
    writer.write(data)
    return await asyncio.wait_for(reader.readexactly(len(data)), LIMIT)


@pytest.fixture
def play(tmp_path):
    """Runs a story with an address that is open and kept."""

    def run(story):
        async def whole():
            path = tmp_path / "gradless-x" / "engine-1.sock"
            address = Address(path, path.parent / "engine-cpu-a", Echo)
            await address.open()
            keeping = asyncio.create_task(address.keep())
            try:
                await story(path, address)
                assert not keeping.done()
            finally:
                keeping.cancel()
                address.close()

        loop = uvloop.new_event_loop  # as an engine's
        with capture_logs() as logs, asyncio.Runner(loop_factory=loop) as runner:
            runner.run(whole())
        return [entry["event"] for entry in logs]

    return run


def remove_all(path: Path) -> None:
    shutil.rmtree(path.parent)


def remove_temporary(path: Path) -> None:
    shutil.rmtree(path.parent / "engine-cpu-a")


def put_a_file_there(path: Path) -> None:
    path.unlink()
    path.write_text("")


@pytest.mark.parametrize("harm", [remove_all, Path.unlink, remove_temporary, put_a_file_there])
def test_whatever_is_removed_is_put_back_and_both_old_and_new_connections_are_served(play, harm):
    async def story(path, _):
        old = await asyncio.open_unix_connection(path)
        before = path.stat().st_ino
        harm(path)
        await until(lambda: path.is_socket() and path.stat().st_ino != before)
        assert (path.parent / "engine-cpu-a").is_dir()
        new = await asyncio.open_unix_connection(path)
        for connection in (old, new):
            assert await echo(connection, b"hello") == b"hello"
            connection[1].close()

    assert play(story) == ["socket restored"]


def test_who_has_connected_just_before_is_taken_in(play):
    async def story(path, address):
        before = socket.socket(socket.AF_UNIX)
        before.connect(str(path))
        remove_all(path)
        await address.open()
        connection = await asyncio.open_unix_connection(sock=before)
        assert await echo(connection, b"hello") == b"hello"
        connection[1].close()

    assert play(story) == []


def test_one_that_cannot_be_put_back_is_told_once_and_tried_until_it_can(play):
    async def story(path, _):
        remove_all(path)
        path.parent.write_text("in the way")
        await asyncio.sleep(4 * LOOK_SECONDS)
        path.parent.unlink()
        await until(path.is_socket)

    assert play(story) == ["socket not restored", "socket restored"]
