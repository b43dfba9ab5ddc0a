"""A cgroup of its own for a server, where this machine lets one be made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import wait_for

#: A limit that no test comes near.
AMPLE = 64 << 30


class Cgroup:
    """A cgroup with a memory limit, v1 or v2."""

    def __init__(self, folder: Path, limit_file: str) -> None:
        self._folder = folder
        self._limit_file = limit_file

    @classmethod
    def make(cls) -> Cgroup | None:
        """None where this process may not make one that can have a limit."""
        for root, limit_file in (
            (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
            (Path("/sys/fs/cgroup"), "memory.max"),
        ):
            folder = root / f"gradless-test-{os.getpid()}"
            with contextlib.suppress(OSError):
                folder.mkdir()
                if (folder / limit_file).exists():
                    (folder / limit_file).write_text(str(AMPLE))
                    return cls(folder, limit_file)
                folder.rmdir()
        return None

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This process is in it, and so is what it starts: memory stays charged to where its process was born."""
        version = "memory" if self._limit_file == "memory.limit_in_bytes" else ""
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        home = next(path for _, controllers, path in lines if version in controllers.split(","))
        (self._folder / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (self._folder.parent / home.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))

    def limit(self, size: int) -> None:
        (self._folder / self._limit_file).write_text(str(size))

    def remove(self) -> None:
        wait_for(lambda: not (self._folder / "cgroup.procs").read_text(), 20, "the cgroup is empty")
        self._folder.rmdir()


@contextlib.contextmanager
def cpu_cgroup(cores: float) -> Iterator[tuple[str, ...]]:
    """Make a cgroup with a CPU quota; gives the launcher that starts a command in it. Skips where none can be made."""
    quota, period = int(cores * 100_000), 100_000
    for root, files in (
        (Path("/sys/fs/cgroup/cpu"), {"cpu.cfs_period_us": f"{period}", "cpu.cfs_quota_us": f"{quota}"}),
        (Path("/sys/fs/cgroup"), {"cpu.max": f"{quota} {period}"}),
    ):
        folder = root / f"gradless-test-cpu-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            for file, text in files.items():
                if not (folder / file).exists():
                    break
                (folder / file).write_text(text)
            else:
                yield ("sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "sh")
                wait_for(lambda: not (folder / "cgroup.procs").read_text(), 20, "the cgroup is empty")  # noqa: B023
                return
        finally:
            folder.rmdir()
    pytest.skip("no cgroup with a CPU quota can be made here")
