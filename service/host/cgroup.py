"""Finds the cgroups that limit this process: its own and those above it, of version 2 or 1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MOUNT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cgroups(controller: str, mount: Path = MOUNT, own: Path = OWN) -> Iterator[tuple[str, Path]]:
    """Yield the version, `v1` or `v2`, and the folder of each cgroup from the own one up to the root of its hierarchy.

    A limit of any of them holds: systemd's `CPUQuota=` and `MemoryMax=` are in a service's own cgroup, a container's
    are in one that it may see as the root.
    """
    text = os.fsdecode(own.read_bytes()) if own.exists() else ""
    for line in filter(None, text.split("\n")):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            unified = mount / "unified"  # where both versions are mounted
            yield from (("v2", folder) for folder in _upwards(unified if unified.is_dir() else mount, path))
        elif controller in controllers.split(","):
            alone = mount / controller  # on most systems a link to the folder that is named after all of them
            root = alone if alone.is_dir() else mount / controllers
            yield from (("v1", folder) for folder in _upwards(root, path))


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """A container may see its own cgroup at the root while `/proc/self/cgroup` names it as the host does."""
    folder = root / path.lstrip("/")
    while folder != root and root in folder.parents and ".." not in folder.parts:
        yield folder
        folder = folder.parent
    yield root
