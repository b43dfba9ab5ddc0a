"""The number of CPU cores that this process may use."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from service.host.cgroup import MOUNT, OWN, cgroups

#: The files that hold quota and period, in microseconds.
_QUOTA_AND_PERIOD = {"v2": ("cpu.max",), "v1": ("cpu.cfs_quota_us", "cpu.cfs_period_us")}


def usable_cores(mount: Path = MOUNT, own: Path = OWN) -> int:
    """Return the cores of the affinity mask, or fewer where a quota of a cgroup says so; at least 1.

    torch asks neither in a container with `--cpus 2`: it starts a thread for each core of the host, and
    they throttle each other.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [found for version, folder in cgroups("cpu", mount, own) if (found := _quota(version, folder))]
    return min([cores, *(max(1, round(quota)) for quota in quotas)])


def _quota(version: str, folder: Path) -> float | None:
    """Return the cores' worth of time that a cgroup may use; None without a quota, which v1 writes as -1."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # not there, or `max`
        words = [word for file in _QUOTA_AND_PERIOD[version] for word in (folder / file).read_bytes().split()]
        quota, period = map(int, words)
        return quota / period if quota > 0 else None
    return None
