"""The socket on which front ends reach an engine, in the folder of the run; it is put back when somebody removes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import structlog

from service.host.run_folder import make_again

log = structlog.get_logger()

LOOK_SECONDS = 0.25


class Address:
    """The listening socket of an engine.

    Args:
        path: of the socket; its folder is that of the run.
        temporary: the engine's TMPDIR, which is put back too.
        connected: makes the protocol of a connection.
    """

    def __init__(self, path: Path, temporary: Path, connected: Callable[[], asyncio.BaseProtocol]) -> None:
        self._path = path
        self._temporary = temporary
        self._connected = connected
        self._servers: list[asyncio.Server] = []
        self._inode = 0
        self._told = False

    async def open(self) -> None:
        """Listen, in place of whatever has that path.

        Raises:
            OSError: the path cannot be had.
        """
        make_again(self._path.parent, self._temporary.name)
        self._path.unlink(missing_ok=True)
        server = await asyncio.get_running_loop().create_unix_server(self._connected, str(self._path))
        # The one before it listens on: it may still have to take in a front end that connected just before.
        for older in self._servers[:-1]:
            older.close()
        self._servers = [*self._servers[-1:], server]
        self._inode = self._path.stat().st_ino

    async def keep(self) -> None:
        """Look again and again, until cancelled. Front ends that are connected notice nothing."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not self._is_there():
                await self._open_again()

    def _is_there(self) -> bool:
        with contextlib.suppress(OSError):
            return self._path.stat().st_ino == self._inode and self._temporary.is_dir()
        return False

    async def _open_again(self) -> None:
        try:
            await self.open()
        except OSError as error:
            if not self._told:
                words = "front ends that start now cannot reach this engine until it can"
                log.error("socket not restored", path=str(self._path), error=str(error), then=words)
            self._told = True
        else:
            self._told = False
            log.warning("socket restored", path=str(self._path), why="its folder, or it, had been removed")

    def close(self) -> None:
        for server in self._servers:
            server.close()
