"""Memory files of a running server, which have no path but the one that the supervisor's descriptors have."""

from __future__ import annotations

import os
from pathlib import Path

from service.host.memory_file import MemoryFile
from service.wire.aboard import read_aboard
from tests.support.server import Server


def memory_files(server: Server, name: str) -> list[MemoryFile]:
    """The supervisor's, by what `/proc` shows."""
    found: dict[int, MemoryFile] = {}  # by inode: one that is mapped has several descriptors
    for descriptor in Path(f"/proc/{server.process.pid}/fd").iterdir():
        try:
            if str(descriptor.readlink()).startswith(f"/memfd:{name} "):
                file = MemoryFile(os.open(descriptor, os.O_RDWR))
                found[os.fstat(file.descriptor).st_ino] = file
        except FileNotFoundError:  # it was closed meanwhile
            continue
    return list(found.values())


def aboard(server: Server) -> list[list[int]]:
    """By engine, the requests in its running forwards, as the supervisor would find them after a death."""
    return [read_aboard(file).ids for file in memory_files(server, "gradless-aboard")]
