"""The kernel's memory limit on this process, and the usage it counts: cgroup v2, or v1 with its memory controller.

`/proc/meminfo` does not show the limit: in a container, too, it shows the host's memory.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Gauge

from service.host.cgroup import MOUNT, OWN, cgroups

#: "No limit" is a number in v1: the largest count of pages in 63 bits.
NO_LIMIT_V1 = 1 << 62


@dataclass(frozen=True)
class MemoryLimit:
    """A limit, and the usage that counts against it.

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
class _Files:
    """The files of limit and usage, and the line of `memory.stat` that says how much of it can be dropped."""

    limit: str
    usage: str
    inactive: str


_FILES = {
    "v2": _Files("memory.max", "memory.current", "inactive_file"),
    "v1": _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def sample_limit(limits: Gauge, usages: Gauge) -> None:
    """Set both gauges; without a limit neither gets a sample."""
    if found := read_memory_limit():
        limits.labels(found.cgroup).set(found.limit)
        usages.labels(found.cgroup).set(found.usage)


def read_memory_limit(mount: Path = MOUNT, own: Path = OWN) -> MemoryLimit | None:
    """Return the lowest limit of this process's cgroup and its visible ancestors; None if there is none."""
    found = [limit for version, folder in cgroups("memory", mount, own) if (limit := _read(version, folder))]
    return min(found, key=lambda each: each.limit, default=None)


def _read(version: str, folder: Path) -> MemoryLimit | None:
    files = _FILES[version]
    with contextlib.suppress(OSError, ValueError):  # not there, or `max`
        limit = int((folder / files.limit).read_bytes())
        usage = int((folder / files.usage).read_bytes())
        inactive = dict(line.split() for line in (folder / "memory.stat").read_bytes().splitlines())
        if limit < NO_LIMIT_V1:
            return MemoryLimit(version, limit, max(0, usage - int(inactive.get(files.inactive.encode(), 0))))
    return None
