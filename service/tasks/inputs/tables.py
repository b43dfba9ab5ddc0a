"""`[inputs.NAME]` and `[outputs.NAME]` of a card: a model's tensors. Read by every process, so it imports no torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from service.signature import ITEM_BYTES, TensorSpec
from service.validation import Table

Dtype = Literal["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]
Extent = Annotated[int, Field(ge=1, le=1 << 31)]
MOST_DIMENSIONS = 8
#: The largest example of one input or output, in bytes.
MOST_BYTES = 1 << 27
#: The least and the largest number of each dtype.
_HOLDS: dict[str, tuple[float, float]] = {
    "bool": (0, 1),
    "uint8": (0, 255),
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    "float16": (-65504, 65504),
    "bfloat16": (-(2 - 2.0**-7) * 2.0**127, (2 - 2.0**-7) * 2.0**127),
    "float32": (-(2 - 2.0**-23) * 2.0**127, (2 - 2.0**-23) * 2.0**127),
    "float64": (-math.inf, math.inf),
}


class _TensorTable(Table):
    dtype: Dtype = Field("float32", description="of its elements, by torch's name")
    shape: tuple[Extent, ...] = Field(max_length=MOST_DIMENSIONS, description="of one example, without the batch")
    batch_axis: int = Field(0, ge=0, description="axis along which forward has the examples")

    @model_validator(mode="after")
    def _is_possible(self) -> Any:
        if self.batch_axis > len(self.shape):
            raise ValueError(
                f"batch_axis = {self.batch_axis} is beyond the {len(self.shape) + 1} axes of a batch; "
                f"give a number from 0 to {len(self.shape)}"
            )
        size = math.prod(self.shape) * ITEM_BYTES[self.dtype]
        if size > MOST_BYTES:
            raise ValueError(f"one example has {size:,} bytes; at most {MOST_BYTES:,} are allowed")
        return self


class InputTable(_TensorTable):
    """One input. A value outside of `range`, whose ends belong to it, is refused."""

    range: tuple[float, float] | None = Field(None, description="least and largest value")

    @model_validator(mode="after")
    def _rises(self) -> Any:
        if self.range and not self.range[0] <= self.range[1]:
            low, high = self.range
            raise ValueError(f"range = [{low:g}, {high:g}] holds no number; give the least and the largest value")
        return self

    @model_validator(mode="after")
    def _has_a_range_of_its_dtype(self) -> Any:
        least, largest = _HOLDS[self.dtype]
        is_floating = "float" in self.dtype
        for end in self.range or ():
            if (is_floating and math.isinf(end)) or (least <= end <= largest and (is_floating or end.is_integer())):
                continue
            kind = "" if is_floating else "whole "
            raise ValueError(
                f"range ends at {end:g}, which {self.dtype} does not hold; give {kind}numbers from {least:g} to "
                f"{largest:g}"
            )
        return self

    def spec(self, name: str) -> TensorSpec:
        return TensorSpec(name, self.dtype, self.shape, self.batch_axis, self.range)


class OutputTable(_TensorTable):
    """One output. Without `finite = false` an example with NaN or an infinity in it is a failure of the model."""

    finite: bool = Field(True, description="whether NaN and infinities are failures")

    def spec(self, name: str) -> TensorSpec:
        return TensorSpec(name, self.dtype, self.shape, self.batch_axis, finite=self.finite)
