"""How many CPU cores this process may really use."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_QUOTA_AND_PERIOD = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores of the affinity mask, or fewer where a cgroup quota (v2, or v1's CFS) says so; at least 1.

    torch asks neither in a container with `--cpus 2`: it starts a thread for each core of the host, and
    they throttle each other.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in _QUOTA_AND_PERIOD:
        with contextlib.suppress(OSError, ValueError):  # not there, or `max`
            quota, period = (int(word) for file in files for word in (cgroup / file).read_text().split())
            if quota > 0:  # -1 is no quota in v1
                cores = min(cores, max(1, round(quota / period)))
    return cores
