"""Bodies of requests, as people send them to a model: photographs, or arrays that its signature allows."""

from __future__ import annotations

import io
import json
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.frontend.protocols.open_inference.datatypes import NAMES
from service.signature import TensorSpec
from service.tasks.inputs.numbers import DTYPES
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
    def is_one_array(self) -> bool:
        return len(self.inputs) == 1

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


def open_inference(seen: Seen, body: bytes) -> tuple[bytes, int]:
    """Return a body as Open Inference Protocol v2 has it, bytes behind JSON, and the length of that JSON.

    All outputs are asked for as bytes, too.

    Args:
        body: a JPEG, or an npy file.
    """
    if seen.side:
        tensor: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [1, 1]}
        content = struct.pack("<I", len(body)) + body
    else:
        array, (spec,) = np.load(io.BytesIO(body)), seen.inputs
        tensor = {"name": spec.name, "datatype": NAMES[spec.dtype], "shape": list(array.shape)}
        content = array.tobytes()
    tensor["parameters"] = {"binary_data_size": len(content)}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + content, len(head)


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
