"""Memory of a GPU, as torch's allocator counts it, for `/metrics`."""

from __future__ import annotations

import torch
from prometheus_client import Gauge

#: Between two looks.
SECONDS = 5.0

#: What is said of the allocator, and what `torch.cuda.memory_stats` calls it.
_KINDS = {
    "allocated": "allocated_bytes.all.current",
    "reserved": "reserved_bytes.all.current",
    "peak": "allocated_bytes.all.peak",
}


def sample_device_memory(gauge: Gauge, device: torch.device) -> None:
    """Set `device_memory_bytes{device,kind}`: what tensors take, what the allocator holds, the most that tensors ever
    took, and what the GPU has."""
    stats = torch.cuda.memory_stats(device)
    for kind, key in _KINDS.items():
        gauge.labels(str(device), kind).set(stats.get(key, 0))
    gauge.labels(str(device), "total").set(torch.cuda.get_device_properties(device).total_memory)
