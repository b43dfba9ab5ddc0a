"""Memory of the tree's processes, by role, as the kernel counts it."""

from __future__ import annotations

import os

import psutil
from prometheus_client import Gauge


def sample_memory(gauge: Gauge, roles: dict[str, list[int]]) -> None:
    """Set `process_memory_bytes{role,kind}`: `rss`, and on Linux `pss`, where shared pages count once."""
    for role, pids in (roles | {"supervisor": [os.getpid()]}).items():
        totals = {"rss": 0, "pss": 0}
        for pid in pids:
            for kind, size in _memory(pid).items():
                totals[kind] += size
        for kind, total in totals.items():
            gauge.labels(role, kind).set(total)


def _memory(pid: int) -> dict[str, int]:
    try:
        full = psutil.Process(pid).memory_full_info()
    except psutil.Error:  # it ended in between
        return {}
    return {"rss": full.rss, "pss": getattr(full, "pss", 0)}
