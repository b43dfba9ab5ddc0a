"""A small piece of memory that outlives its engine: the requests in its forwards, their time limit, and a pulse.

The worker writes the ids before each forward and clears them after it, with the moment by which the forward must be
over (of two under way, the one that began first); it also counts the batches it finished, so that a start that never
worked can be told from a crash. The event loop writes a pulse. The file is memory-mapped, so a write is a memory
write (about a microsecond), and it is the supervisor's, so it is there after any kind of death; the supervisor reads
it meanwhile and afterwards. A frame could lose the race against the crash it is meant to explain, and a stopped
process sends none.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.host.memory_file import MemoryFile

#: More requests than this are never under way (a batch is at most 1,024 examples, and there are two at most).
MOST = 2048
_COUNTS = struct.Struct("<QQ")  # batches finished, ids aboard
_TIMES = struct.Struct("<dd")  # CLOCK_MONOTONIC: when the forward must be over (0: none runs), and the last pulse
_IDS = _COUNTS.size + _TIMES.size
_SIZE = _IDS + 8 * MOST


def make_aboard_file() -> MemoryFile:
    """Make the file of one engine with all its memory allocated, so that no write to it can fail.

    Raises:
        OSError: there is not enough memory.
    """
    file = MemoryFile.create("gradless-aboard")
    os.posix_fallocate(file.descriptor, 0, _SIZE)
    return file


class Aboard:
    """The writer's side: one engine's worker thread, and its event loop for the pulse."""

    def __init__(self, file: MemoryFile) -> None:
        self._map = mmap.mmap(file.descriptor, _SIZE)
        self._finished = 0
        self._silent = False
        self._pulsing = threading.Lock()

    def board(self, ids: Sequence[int]) -> None:
        """These requests, and no others, are in forwards now."""
        struct.pack_into(f"<{len(ids)}Q", self._map, _IDS, *ids)
        _COUNTS.pack_into(self._map, 0, self._finished, len(ids))

    def due(self, moment: float) -> None:
        """The next forward to end must be over by then (CLOCK_MONOTONIC seconds)."""
        struct.pack_into("<d", self._map, _COUNTS.size, moment)

    def clear(self) -> None:
        """The forward is over."""
        self._finished += 1
        struct.pack_into("<d", self._map, _COUNTS.size, 0.0)
        _COUNTS.pack_into(self._map, 0, self._finished, 0)

    def pulse(self, moment: float) -> None:
        """The event loop runs."""
        with self._pulsing:
            struct.pack_into("<d", self._map, _COUNTS.size + 8, 0.0 if self._silent else moment)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Inside, no pulse is expected: loading a model may hold the interpreter lock for a long time.

        It ends with a pulse, from which silence counts; otherwise an engine that stops at once would never be missed.
        """
        self._silent = True
        self.pulse(0.0)
        try:
            yield
        finally:
            self._silent = False
            self.pulse(time.monotonic())


@dataclass(frozen=True)
class LastSeen:
    """Contents of the file. `due` and `pulse` are CLOCK_MONOTONIC seconds, or 0."""

    finished: int = 0
    due: float = 0.0
    pulse: float = 0.0
    ids: list[int] = field(default_factory=list)


def read_aboard(file: MemoryFile) -> LastSeen:
    """Return what an engine was doing when it was last heard of."""
    data = os.pread(file.descriptor, _SIZE, 0)
    finished, count = _COUNTS.unpack_from(data, 0)
    due, pulse = _TIMES.unpack_from(data, _COUNTS.size)
    return LastSeen(finished, due, pulse, list(struct.unpack_from(f"<{count}Q", data, _IDS)))
