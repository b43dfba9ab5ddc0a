"""Tests that run while the other workers of `pytest -n` wait: those that measure times, rates or memory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def only_as_many_as_may(alone: bool) -> Iterator[None]:
    """Hold the room for one test: with others, or alone. Without `-n` there are no others.

    Whoever comes waits at the door while one who wants to be alone waits there for the room to empty.
    """
    if not (files := _files()):
        yield
        return
    with files[0].open("w") as door, files[1].open("w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield


def leave() -> None:
    """Remove the files at the end of a worker; a worker that goes on makes them anew, for itself."""
    for file in _files():
        file.unlink(missing_ok=True)


def _files() -> list[Path]:
    """The door and the room of this run, if it has several workers."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    return [Path(tempfile.gettempdir(), f"gradless-tests-{run}.{name}") for name in ("door", "room")] if run else []
