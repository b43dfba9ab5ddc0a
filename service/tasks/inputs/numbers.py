"""Numbers of bodies as arrays of a model's dtypes, checked as they are read."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from service.errors import Unprocessable
from service.signature import TensorSpec

_Array = npt.NDArray[Any]
#: Arrays of numpy for each of torch's dtypes; bfloat16, which numpy does not have, is read as float32.
DTYPES = {
    "bool": np.dtype(np.bool_),
    **{name: np.dtype(name) for name in ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")},
    "bfloat16": np.dtype(np.float32),
}
#: Where many lists are short they are read as tuples, which the garbage collector does not go through again and again.
MOST_IN_TUPLE = 32
#: Everything but what shows how lists are nested.
_NOT_NESTING = bytes(set(range(256)) - set(b"[],"))


@functools.cache
def number_list(dtype: str) -> msgspec.json.Decoder[Any]:
    """Return a decoder of a flat JSON list of numbers of a dtype."""
    return msgspec.json.Decoder(list[nested_type(TensorSpec("", dtype))])  # type: ignore[misc]


def is_nested(json: bytes, shape: Sequence[int]) -> bool:
    """Tell by their brackets and commas whether the lists of a JSON text are nested as a shape is, in 1 ms a megabyte.

    Strings in it, such as keys, must hold neither.
    """
    return json.translate(None, _NOT_NESTING) == nesting(shape)


def nesting(shape: Sequence[int]) -> bytes:
    """Return the brackets and commas of nested lists: `[[,],[,]]` of shape (2, 2)."""
    inside = b"," * (shape[-1] - 1)
    for extent in reversed(shape[:-1]):
        inside = b",".join([b"[" + inside + b"]"] * extent)
    return b"[" + inside + b"]"


def nested_type(spec: TensorSpec) -> Any:
    """Return the type of one example as nested numbers, for a decoder."""
    found: Any = float
    if spec.dtype == "bool":
        found = bool
    elif not spec.is_floating:
        limits = np.iinfo(spec.dtype)
        found = Annotated[int, msgspec.Meta(ge=int(limits.min), le=int(limits.max))]
    for extent in reversed(spec.shape):
        if extent <= MOST_IN_TUPLE:
            found = tuple[(found,) * extent]  # type: ignore[misc]
        else:
            found = Annotated[list[found], msgspec.Meta(min_length=extent, max_length=extent)]
    return found


def of_bfloat16(data: Any) -> _Array:
    """Return float32, whose upper half bfloat16 is, of its bytes."""
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)


def array_of(spec: TensorSpec, values: Sequence[Any], count: int) -> _Array:
    """Return `(count, *shape)` of as many numbers, nested or not, which are of the dtype's kind and in its range.

    Raises:
        Unprocessable: a number is too large for a floating dtype.
    """
    with np.errstate(over="ignore"):
        array = np.array(values, DTYPES[spec.dtype]).reshape(count, *spec.shape)
    if spec.is_floating:
        _check_fits(spec, array)
    return array


def _check_fits(spec: TensorSpec, array: _Array) -> None:
    """Refuse numbers of JSON that are too large for a dtype, which would become infinities.

    Raises:
        Unprocessable: there is one.
    """
    finite = np.isfinite(array)
    if not finite.all():
        instance = int(np.argwhere(~finite)[0][0])
        raise Unprocessable(f"Instance {instance}, input {spec.name}: a number is too large for {spec.dtype}.")


def check_range(spec: TensorSpec, array: _Array) -> None:
    """Refuse values outside of an input's range, in which NaN never is; of booleans, bytes that are neither 0 nor 1.

    Raises:
        Unprocessable: there is one.
    """
    if spec.dtype == "bool" and (array.view(np.uint8) > 1).any():
        raise Unprocessable(f"The input {spec.name} has a byte that is neither 0 nor 1; it must be bool.")
    if spec.range is None or spec.dtype == "bool" or not array.size:
        return
    low, high = spec.range
    within = (array >= low) & (array <= high)
    if not within.all():
        place = tuple(np.argwhere(~within)[0])
        at = f" at {list(map(int, place[1:]))}" if len(place) > 1 else ""
        raise Unprocessable(
            f"Instance {int(place[0])}, input {spec.name}{at}: {array[place]!s} is outside of the range "
            f"[{low:g}, {high:g}]."
        )
