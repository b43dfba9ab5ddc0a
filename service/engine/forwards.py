"""The ways to compute a batch: with the module itself, or with a compiled package.

On a GPU, either is run by `service.engine.cuda`, which is a third.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from service.loader.compiled import Arrays, Package

#: By the names that tunings use.
MEMORY_FORMATS = {"contiguous_format": torch.contiguous_format, "channels_last": torch.channels_last}


class Running(Protocol):
    """A forward under way."""

    def wait(self) -> Arrays:
        """Wait for its end and return the outputs of the model, `(N, ...)` each. Called once."""


class Forward(Protocol):
    """One way to compute a batch."""

    @property
    def threads(self) -> int:
        """Intra-op threads that torch has meanwhile."""

    @property
    def overlaps_from(self) -> int:
        """Smallest batch that may start while another one runs; 0 if batches never overlap."""

    def begin(self, arrays: Arrays) -> Running:
        """Start on a batch. A forward that does not overlap is computed while it is waited for.

        Args:
            arrays: for each input `(N, ...)` on the CPU, not to be changed until `wait` has returned.
        """


class DeviceForward(Forward, Protocol):
    """A forward that can also be told to compute what is on the device already."""

    def compute(self, arrays: Arrays) -> Arrays:
        """Return the outputs for arrays on the device."""


@dataclass(slots=True)
class Deferred:
    """A forward that is computed when it is waited for."""

    compute: Callable[[Arrays], Arrays]
    arrays: Arrays

    def wait(self) -> Arrays:
        return self.compute(self.arrays)


@dataclass(slots=True)
class Begun:
    """A package's forward that computes in threads of its own; `end` waits for it."""

    end: Callable[[], Arrays]

    def wait(self) -> Arrays:
        return self.end()


@dataclass(slots=True)
class RunningBatch:
    """A forward under way whose outputs are held against what they were at the start."""

    running: Running
    examples: int
    check: Callable[[Arrays, int], None]

    def wait(self) -> Arrays:
        """Wait for its end and return the outputs.

        Raises:
            ModelOutputInvalid: the module gave something else than at the start.
        """
        outputs = self.running.wait()
        self.check(outputs, self.examples)
        return outputs


class EagerForward:
    """Runs the module, one operator after the other.

    Args:
        compute: the adapter's forward. Its own call would run a proof's hooks on it, which are for what it holds.
    """

    overlaps_from = 0

    def __init__(self, compute: Callable[..., Arrays], device: torch.device, threads: int) -> None:
        self.threads = threads
        self._compute = compute
        self._device = device

    def compute(self, arrays: Arrays) -> Arrays:
        return self._compute(*arrays)

    def begin(self, arrays: Arrays) -> Running:
        return Deferred(self.compute, on_device(arrays, self._device))


class PackageForward:
    """Runs a compiled package.

    Args:
        sha256: of the package's file; empty where the package is on trial and its file is not kept yet.
    """

    def __init__(self, package: Package, device: torch.device, sha256: str) -> None:
        self.threads = package.intra_op_threads
        self.overlaps_from = package.overlaps_from
        self.sha256 = sha256
        self._package = package
        self._device = device

    def compute(self, arrays: Arrays) -> Arrays:
        return self._package(arrays)

    def begin(self, arrays: Arrays) -> Running:
        if self._package.begin:
            return Begun(self._package.begin(arrays))
        return Deferred(self._package, on_device(arrays, self._device))


def on_device(arrays: Arrays, device: torch.device) -> Arrays:
    """Return the arrays on a device."""
    return arrays if device.type == "cpu" else tuple([array.to(device) for array in arrays])
