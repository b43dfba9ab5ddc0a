"""What the kernel's memory limit on this process counts: cgroup v2, or v1 where its memory controller is.

Limits are told to nobody in a process: `/proc/meminfo` shows the host's memory, in a container too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Gauge

MOUNT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
#: "No limit" is a number in v1: the largest count of pages in 63 bits.
NO_LIMIT_V1 = 1 << 62


@dataclass(frozen=True)
class MemoryLimit:
    """A limit, and what is counted against it.

    Attributes:
        cgroup: the version, `v1` or `v2`.
        limit: bytes.
        usage: bytes in use that the kernel cannot simply drop: the cgroup's whole charge without inactive page cache.
            It is what kubelet calls the working set, and evicts by. RSS summed over processes is no substitute: it
            counts shared pages several times, and neither tmpfs nor sockets nor the kernel's own memory.
    """

    cgroup: str
    limit: int
    usage: int


@dataclass(frozen=True)
class _Version:
    name: str
    limit: str
    usage: str
    inactive: str


V2 = _Version("v2", "memory.max", "memory.current", "inactive_file")
V1 = _Version("v1", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def sample_limit(limits: Gauge, usages: Gauge) -> None:
    """Set both gauges; without a limit neither gets a sample."""
    if found := read_memory_limit():
        limits.labels(found.cgroup).set(found.limit)
        usages.labels(found.cgroup).set(found.usage)


def read_memory_limit(mount: Path = MOUNT, own: Path = OWN) -> MemoryLimit | None:
    """The least limit of the own cgroup and those above it that can be seen; None where there is none."""
    found = [limit for version, folder in _folders(mount, own) if (limit := _read(version, folder))]
    return min(found, key=lambda each: each.limit, default=None)


def _folders(mount: Path, own: Path) -> Iterator[tuple[_Version, Path]]:
    """From the own cgroup up to the root of its hierarchy."""
    lines = own.read_text().splitlines() if own.exists() else []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            unified = mount / "unified"  # where both versions are mounted
            yield from ((V2, folder) for folder in _upwards(unified if unified.is_dir() else mount, path))
        elif "memory" in controllers.split(","):
            yield from ((V1, folder) for folder in _upwards(mount / "memory", path))


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """A container may see its own cgroup at the root while `/proc/self/cgroup` names it as the host does."""
    folder = root / path.lstrip("/")
    while folder != root and root in folder.parents and ".." not in folder.parts:
        yield folder
        folder = folder.parent
    yield root


def _read(version: _Version, folder: Path) -> MemoryLimit | None:
    with contextlib.suppress(OSError, ValueError):  # not there, or `max`
        limit = int((folder / version.limit).read_text())
        usage = int((folder / version.usage).read_text())
        inactive = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        if limit < NO_LIMIT_V1:
            return MemoryLimit(version.name, limit, max(0, usage - int(inactive.get(version.inactive, 0))))
    return None
