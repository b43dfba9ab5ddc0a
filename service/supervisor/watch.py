"""Watch: look once a second at what a reload would read, and ask for a reload when that has changed and been quiet.

Looking, and not the kernel's notifications: docs/decisions/0011-watch-by-looking.md has the reasons.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar

import structlog

T = TypeVar("T")
log = structlog.get_logger()

#: Pause between two looks.
LOOK_SECONDS = 1.0
#: A copy counts as whole when nothing has changed for this time.
SETTLED_SECONDS = 1.0
#: Files that never rest are loaded as they are after this time.
MOST_COPYING_SECONDS = 600.0
#: Files and folders that a look takes in. Each costs about 7 µs of a core every second.
MOST_FILES = 20_000
MOST_NAMES_LOGGED = 10

#: Names below the models folder that do not count: bytecode and git's own, with all that they hold; an editor's files.
_IGNORED = {"__pycache__", ".git"}
_IGNORED_SUFFIXES = (".pyc", ".swp", ".tmp", "~")

#: (st_dev, st_ino, st_size, st_mtime_ns, st_ctime_ns) of a file, links followed; of a folder, which one it is.
State: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Snapshot:
    """The result of one look at the models folder, by path below it.

    Args:
        files: the state of each file and folder that counts.
        left_out: the reason for each path that could not be looked at.
    """

    files: dict[str, State] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def take_snapshot(models: Path) -> Snapshot:
    """Look at each file below the models folder, links followed, those nearest to the top first.

    A folder that several names lead to is listed under the first one: links may form a circle. What vanishes
    meanwhile, the models folder included, is not there.
    """
    snapshot = Snapshot()
    listed: set[State] = set()
    waiting = deque([""])
    found = 0
    while waiting:
        name = waiting.popleft()
        try:
            status = (models / name).stat()
            if stat.S_ISDIR(status.st_mode) and _which(status) not in listed:
                listed.add(_which(status))
                inside = _names(models / name, MOST_FILES - found)
                found += len(inside)
                waiting.extend(f"{name}/{each}" if name else each for each in inside)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            snapshot.left_out[name or "."] = error.strerror or str(error)
            continue
        if not name.endswith(_IGNORED_SUFFIXES):
            snapshot.files[name or "."] = _state(status)
    return snapshot


def _which(status: os.stat_result) -> State:
    return status.st_dev, status.st_ino


def _state(status: os.stat_result) -> State:
    if stat.S_ISDIR(status.st_mode):  # its times change with the bytecode that Python writes into it
        return _which(status)
    return *_which(status), status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _names(folder: Path, most: int) -> list[str]:
    """Names in a folder that may count, sorted.

    Raises:
        OSError: the folder cannot be read, or holds more than `most`.
    """
    with os.scandir(folder) as entries:
        names = sorted(islice((entry.name for entry in entries if _counts(entry)), most + 1))
    if len(names) > most:
        raise OSError(f"too many files: more than {MOST_FILES} with those before it")
    return names


def _counts(entry: os.DirEntry[str]) -> bool:
    """Say whether a change below may be one of a model; hidden folders are not models (`loader.repository`)."""
    return entry.name not in _IGNORED and not (entry.name.startswith(".") and entry.is_dir())


class Settling:
    """Collects the names that change from look to look, until it has been quiet or has gone on for too long.

    Args:
        seen: the look that the first one is compared with.
    """

    def __init__(self, seen: Snapshot) -> None:
        self._last = seen.files
        self._names: set[str] = set()
        self._began = self._moved = 0.0

    def take(self, seen: Snapshot, now: float) -> list[str]:
        """Take in a look; returns all names that have changed, sorted, when they have settled, else none.

        Args:
            seen: what the look found.
            now: seconds of a clock that never goes back.
        """
        if seen.files != self._last:
            if not self._names:
                self._began = now
            self._moved = now
            self._names |= {name for name, _ in self._last.items() ^ seen.files.items()}
            self._last = seen.files
        if now - self._moved < SETTLED_SECONDS and now - self._began < MOST_COPYING_SECONDS:
            return []
        names, self._names = sorted(self._names), set()
        return names


async def watch(models: Path, seen: Snapshot, changed: Callable[[], None]) -> None:
    """Call `changed` when files of the models have changed and then been quiet for a moment; until cancelled.

    Args:
        models: the models folder, or a link to it, which may be swapped.
        seen: what was there before it was read for the first time.
        changed: asks for a reload.
    """
    settling = Settling(seen)
    told: dict[str, str] = {}
    while True:
        _tell_left_out(seen.left_out, told)
        told = seen.left_out
        await asyncio.sleep(LOOK_SECONDS)
        now = time.monotonic()
        seen = await _in_a_thread(partial(take_snapshot, models))
        if names := settling.take(seen, now):
            log.info("files changed", files=names[:MOST_NAMES_LOGGED])
            changed()


def _tell_left_out(left_out: dict[str, str], told: dict[str, str]) -> None:
    if fresh := sorted(left_out.items() - told.items()):
        log.warning("not watched", files=dict(fresh[:MOST_NAMES_LOGGED]), number=len(fresh))


async def _in_a_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread that nobody waits for at the process's end: a network file system may hang."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="watch", daemon=True).start()
    return await asyncio.wrap_future(future)
