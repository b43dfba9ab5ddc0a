"""Who was aboard when an engine died: request ids in a small file that outlives the process.

The worker writes the ids before each forward and clears them after it; it also counts the batches it
finished, so that a start that never worked can be told from a crash. The file is memory-mapped, so a
write is a memory write (about a microsecond) and the kernel keeps it through any kind of death; the
supervisor reads it afterwards. A frame could lose the race against the crash it is meant to explain.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path

#: More requests than this never ride in one batch (a batch is at most 1,024 examples).
MOST = 1024
_COUNTS = struct.Struct("<QQ")  # batches finished, ids aboard


class Aboard:
    """The writer's side: one engine's worker thread."""

    def __init__(self, path: Path) -> None:
        size = _COUNTS.size + 8 * MOST
        with path.open("w+b") as file:
            file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        self._finished = 0

    def board(self, ids: Sequence[int]) -> None:
        """These requests are in the forward that starts now."""
        struct.pack_into(f"<{len(ids)}Q", self._map, _COUNTS.size, *ids)
        _COUNTS.pack_into(self._map, 0, self._finished, len(ids))

    def clear(self) -> None:
        """The forward is over."""
        self._finished += 1
        _COUNTS.pack_into(self._map, 0, self._finished, 0)


def read_aboard(path: Path) -> tuple[int, list[int]]:
    """How many batches were finished, and the ids that were aboard; `(0, [])` where there is no file yet."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return 0, []
    if len(data) < _COUNTS.size:
        return 0, []
    finished, count = _COUNTS.unpack_from(data, 0)
    return finished, list(struct.unpack_from(f"<{count}Q", data, _COUNTS.size))
