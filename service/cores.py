"""How many CPU cores this process may really use."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores of the affinity mask, or fewer where a cgroup v2 quota says so; at least 1.

    torch asks neither in a container with `--cpus 2`: it starts a thread for each core of the host, and
    they throttle each other.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores
    return cores
