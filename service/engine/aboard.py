"""What an engine is doing, in a small file that outlives it: who is in its forwards, until when, and its pulse.

The worker writes the ids before each forward and clears them after it, with the moment by which the forward must be
over (of two under way, the one that began first); it also counts the batches it finished, so that a start that never
worked can be told from a crash. The event loop writes a pulse. The file is memory-mapped, so a write is a memory
write (about a microsecond) and the kernel keeps it through any kind of death; the supervisor reads it meanwhile and
afterwards. A frame could lose the race against the crash it is meant to explain, and a stopped process sends none.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: More requests than this are never under way (a batch is at most 1,024 examples, and there are two at most).
MOST = 2048
_COUNTS = struct.Struct("<QQ")  # batches finished, ids aboard
_TIMES = struct.Struct("<dd")  # CLOCK_MONOTONIC: when the forward must be over (0: none runs), and the last pulse
_IDS = _COUNTS.size + _TIMES.size


class Aboard:
    """The writer's side: one engine's worker thread, and its event loop for the pulse."""

    def __init__(self, path: Path) -> None:
        size = _IDS + 8 * MOST
        with path.open("w+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        self._finished = 0

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
        struct.pack_into("<d", self._map, _COUNTS.size + 8, moment)


@dataclass(frozen=True)
class Seen:
    """What the file says. `due` and `pulse` are CLOCK_MONOTONIC seconds; 0 where there is none."""

    finished: int = 0
    due: float = 0.0
    pulse: float = 0.0
    ids: list[int] = field(default_factory=list)


def read_aboard(path: Path) -> Seen:
    """What an engine was doing when it was last heard of; nothing where there is no file yet."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Seen()
    if len(data) < _IDS:
        return Seen()
    finished, count = _COUNTS.unpack_from(data, 0)
    due, pulse = _TIMES.unpack_from(data, _COUNTS.size)
    return Seen(finished, due, pulse, list(struct.unpack_from(f"<{count}Q", data, _IDS)))
