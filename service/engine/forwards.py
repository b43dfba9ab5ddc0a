"""The ways to compute a batch: with the module itself, or with a compiled package.

On a GPU, either is run by `service.engine.cuda`, which is a third.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from service.errors import ModelOutputInvalid
from service.loader.compiled import Package

#: By the names that tunings use.
MEMORY_FORMATS = {"contiguous_format": torch.contiguous_format, "channels_last": torch.channels_last}


class Running(Protocol):
    """A forward under way."""

    def wait(self) -> Any:
        """Wait for its end and return what the module gives. Called once."""


class Forward(Protocol):
    """One way to compute a batch."""

    @property
    def threads(self) -> int:
        """Intra-op threads that torch has meanwhile."""

    @property
    def overlaps_from(self) -> int:
        """Smallest batch that may start while another one runs; 0 if batches never overlap."""

    def begin(self, pixels: Tensor) -> Running:
        """Start on a batch. A forward that does not overlap is computed while it is waited for.

        Args:
            pixels: `(N, C, H, W) uint8` on the CPU, not to be changed until `wait` has returned.
        """


class DeviceForward(Forward, Protocol):
    """A forward that can also be told to compute what is on the device already."""

    def compute(self, pixels: Tensor) -> Any:
        """Return what the module gives for `(N, C, H, W) uint8` on the device."""


@dataclass(slots=True)
class Deferred:
    """A forward that is computed when it is waited for."""

    compute: Callable[[Tensor], Any]
    pixels: Tensor

    def wait(self) -> Any:
        return self.compute(self.pixels)


@dataclass(slots=True)
class Begun:
    """A package's forward that computes in threads of its own; `end` waits for it."""

    end: Callable[[], Any]

    def wait(self) -> Any:
        return self.end()


@dataclass(slots=True)
class RunningBatch:
    """A forward under way whose outputs are held against what they must be: one row of scores for each example."""

    running: Running
    examples: int
    classes: int

    def wait(self) -> Tensor:
        """Wait for its end and return the scores, `(examples, classes)`.

        Raises:
            ModelOutputInvalid: the module gave something else.
        """
        outputs = self.running.wait()
        if not isinstance(outputs, Tensor) or outputs.shape != (self.examples, self.classes):
            got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            wanted = (self.examples, self.classes)
            raise ModelOutputInvalid(f"The model returned {got} for {self.examples} inputs; it must return {wanted}.")
        return outputs


class EagerForward:
    """Runs the module, one operator after the other.

    Args:
        prepare: makes of pixels on the device what the module takes.
    """

    overlaps_from = 0

    def __init__(
        self, module: nn.Module, prepare: Callable[[Tensor], Tensor], device: torch.device, threads: int
    ) -> None:
        self.threads = threads
        self._module = module
        self._prepare = prepare
        self._device = device

    def compute(self, pixels: Tensor) -> Any:
        return self._module(self._prepare(pixels))

    def begin(self, pixels: Tensor) -> Running:
        return Deferred(self.compute, pixels.to(self._device))


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

    def compute(self, pixels: Tensor) -> Any:
        return self._package(pixels)

    def begin(self, pixels: Tensor) -> Running:
        if self._package.begin:
            return Begun(self._package.begin(pixels))
        return Deferred(self._package, pixels.to(self._device))
