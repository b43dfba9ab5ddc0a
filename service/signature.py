"""A model's inputs and outputs: names, dtypes and shapes. Every process reads it, so it imports no torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

#: Bytes of one element, by torch's name of its dtype: every dtype that a tensor may have here.
ITEM_BYTES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
}
#: Where tensors lie one behind the other, each begins at a multiple of this (bytes).
ALIGNMENT = 64


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output of a model.

    Attributes:
        shape: of one example, without the batch; `()` is a single number.
        batch_axis: the axis along which the module has its examples.
        range: least and largest value of an element, both included; None allows any.
        finite: whether an output must be free of NaN and infinities.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    batch_axis: int = 0
    range: tuple[float, float] | None = None
    finite: bool = True

    @property
    def nbytes(self) -> int:
        """Return the bytes of one example."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def is_floating(self) -> bool:
        return "float" in self.dtype


class Signature(msgspec.Struct, frozen=True):
    """The tensors of one example, in the order in which they travel."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    @property
    def example_bytes(self) -> int:
        """Return the bytes of one example's inputs."""
        return sum(spec.nbytes for spec in self.inputs)

    @property
    def result_bytes(self) -> int:
        """Return the bytes of one example's outputs."""
        return sum(spec.nbytes for spec in self.outputs)


def blocks(sizes: Sequence[int], count: int) -> Iterator[tuple[int, int]]:
    """Yield where the tensors of `count` examples begin and end (bytes), laid one behind the other.

    A block holds one tensor of every example, in C order, example after example.

    Args:
        sizes: of each tensor, `TensorSpec.nbytes`.
    """
    start = 0
    for size in sizes:
        end = start + count * size
        yield start, end
        start = -(-end // ALIGNMENT) * ALIGNMENT


def digest(*parts: object) -> str:
    """Return 12 hex digits that change with any of these parts, which msgpack can write."""
    return hashlib.sha256(msgspec.msgpack.encode(parts)).hexdigest()[:12]


def said_of_shape(dtype: str, shape: Sequence[int]) -> str:
    """Write a dtype and a shape for people, such as `float32 of shape (3, 4)`, or `one float32`."""
    return (
        f"{dtype} of shape ({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})" if shape else f"one {dtype}"
    )


def nested_schema(spec: TensorSpec) -> dict[str, Any]:
    """Return the JSON schema of one example's tensor as nested numbers.

    What may be NaN or infinite is null then. (https://json-schema.org/draft/2020-12/json-schema-validation)
    """
    kind = "number" if spec.is_floating else "boolean" if spec.dtype == "bool" else "integer"
    found: dict[str, Any] = {"type": kind if spec.finite else [kind, "null"]}
    if spec.range and kind != "boolean":
        bounds = zip(("minimum", "maximum"), spec.range, strict=True)
        found |= {key: bound for key, bound in bounds if math.isfinite(bound)}
    for extent in reversed(spec.shape):
        found = {"type": "array", "items": found, "minItems": extent, "maxItems": extent}
    return found
