"""Bodies of requests, as people send them to a model: photographs, or arrays that its signature allows."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.signature import TensorSpec
from service.tasks.inputs.tensor_bodies import DTYPES
from service.tasks.photographs import bench_pictures

#: Different bodies of arrays.
ARRAYS = 16


@dataclass(frozen=True)
class Seen:
    """Inputs of a model, as far as bodies go by them.

    Attributes:
        side: the longer side of a picture, in pixels; 0 for a model of tensors.
        inputs: of a model of tensors.
    """

    side: int = 0
    inputs: tuple[TensorSpec, ...] = ()

    @property
    def content_type(self) -> str:
        if self.side:
            return "image/jpeg"
        return "application/x-npy" if len(self.inputs) == 1 else "application/x-npz"

    @property
    def words(self) -> str:
        """Say what bodies hold."""
        if self.side:
            return "JPEGs of 13 to 100 KB, 320 to 800 pixels wide,"
        size = sum(spec.nbytes for spec in self.inputs)
        return f"{'npy' if len(self.inputs) == 1 else 'npz'} files of {size:,} bytes"


def bodies(seen: Seen, body_bytes: int = 0) -> list[bytes]:
    """Return different bodies, of one example each; JPEGs are filled up to `body_bytes`."""
    if seen.side:
        return bench_pictures(seen.side, body_bytes)
    generator = np.random.default_rng(2024)
    found = []
    for _ in range(ARRAYS):
        file = io.BytesIO()
        arrays = {spec.name: _drawn(spec, generator) for spec in seen.inputs}
        if len(arrays) == 1:
            np.save(file, next(iter(arrays.values())))
        else:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        found.append(file.getvalue())
    return found


def _drawn(spec: TensorSpec, generator: np.random.Generator) -> npt.NDArray[Any]:
    """Draw `(1, *shape)`, as a proof draws examples."""
    shape, dtype = (1, *spec.shape), DTYPES[spec.dtype]
    low, high = spec.range or (-math.inf, math.inf)
    if spec.is_floating:
        numbers = generator.normal(size=shape)
        if math.isfinite(low) and math.isfinite(high):
            numbers = generator.uniform(low, high, shape)
        elif math.isfinite(low):
            numbers = low + abs(numbers)
        elif math.isfinite(high):
            numbers = high - abs(numbers)
        return numbers.astype(dtype)
    low, high = (low, high) if spec.range and spec.dtype != "bool" else (0, 1)
    return generator.integers(int(low), int(high), shape, endpoint=True).astype(dtype)
