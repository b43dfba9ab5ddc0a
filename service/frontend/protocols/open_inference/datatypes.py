"""Datatypes of the protocol: their names, their elements in JSON, and their bytes.

Little-endian, row-major, without padding; BYTES is a 4-byte length and the bytes, for each element.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from service.errors import Malformed, Unprocessable
from service.signature import TensorSpec
from service.tasks.inputs.numbers import DTYPES, array_of, is_nested, number_list, of_bfloat16

_Array = npt.NDArray[Any]
#: By torch's name of a dtype, and `bytes`, which is ours for files and texts.
NAMES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
    "bytes": "BYTES",
}
_NESTED = re.compile(rb"\s*\[\s*\[")
_LENGTH = struct.Struct("<I")
_texts = msgspec.json.Decoder(list[str | tuple[str]])


def of_json(spec: TensorSpec, shape: Sequence[int], data: bytes) -> _Array | list[str]:
    """Return the elements of a tensor that is in the body as JSON, flat or nested as its shape is.

    Nested lists are compared with the shape by their brackets and commas, and are then read as a flat one, in C.

    Args:
        spec: of one example.
        shape: of the tensor, the number of examples first.

    Raises:
        Unprocessable: there are more or fewer elements, some of another kind, or lists of other lengths.
        Malformed: it is not JSON.
    """
    if spec.dtype == "bytes":
        texts = _decoded(_texts, data, spec)
        return [text if isinstance(text, str) else text[0] for text in _of_count(texts, shape[0], spec)]
    count = math.prod(shape)
    if _NESTED.match(data):
        # An element takes a digit and a comma at least: the brackets of a huge shape are not made for a short body.
        if len(data) < 2 * count or not is_nested(data, shape):
            raise Unprocessable(f"The nested data of the input {spec.name} is not of the shape {list(shape)}.")
        data = b"[" + data.translate(None, b"[]") + b"]"
    return array_of(spec, _of_count(_decoded(number_list(spec.dtype), data, spec), count, spec), shape[0])


def _decoded(decoder: msgspec.json.Decoder[Any], data: bytes, spec: TensorSpec) -> Any:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise Unprocessable(f"The data of the input {spec.name} is not {NAMES[spec.dtype]}: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"The data of the input {spec.name} is not valid JSON: {error}.") from error


def _of_count(values: Any, count: int, spec: TensorSpec) -> Any:
    if len(values) != count:
        raise Unprocessable(f"The data of the input {spec.name} has {len(values)} elements; its shape has {count}.")
    return values


def of_bytes(spec: TensorSpec, shape: Sequence[int], data: memoryview) -> _Array | list[bytes]:
    """Return the elements of a tensor that follows the JSON as bytes; numbers are not copied.

    Raises:
        Malformed: it has more or fewer bytes than its shape.
    """
    if spec.dtype == "bytes":
        return _elements(spec.name, shape[0], data)
    size = shape[0] * spec.nbytes
    if len(data) != size:
        raise Malformed(f"The input {spec.name} has {len(data):,} bytes; of its shape and datatype it has {size:,}.")
    if spec.dtype == "bfloat16":
        return of_bfloat16(data).reshape(shape)
    return np.frombuffer(data, DTYPES[spec.dtype]).reshape(shape)


def _elements(name: str, count: int, data: memoryview) -> list[bytes]:
    """Cut BYTES into its elements."""
    elements: list[bytes] = []
    at = 0
    while at < len(data) and len(elements) <= count:
        begin = at + _LENGTH.size
        end = begin + (_LENGTH.unpack_from(data, at)[0] if begin <= len(data) else 0)
        if end > len(data) or begin > len(data):
            raise Malformed(f"Element {len(elements)} of the input {name} goes on beyond its binary data.")
        elements.append(bytes(data[begin:end]))
        at = end
    if len(elements) != count:
        found = f"more than {count}" if len(elements) > count else len(elements)
        raise Malformed(f"The binary data of the input {name} has {found} elements; its shape has {count}.")
    return elements


def to_bytes(dtype: str, array: _Array | Sequence[Sequence[str]]) -> bytes:
    """Return the bytes of a tensor of the answer."""
    if isinstance(array, np.ndarray):
        if dtype == "bfloat16":
            array = (array.view(np.uint32) >> 16).astype(np.uint16)
        return array.tobytes()
    encoded = [text.encode() for row in array for text in row]
    return b"".join(_LENGTH.pack(len(each)) + each for each in encoded)


def to_json(array: _Array | Sequence[Sequence[str]]) -> Any:
    """Return the elements of a tensor of the answer as a flat list, for orjson."""
    return array.reshape(-1) if isinstance(array, np.ndarray) else [text for row in array for text in row]
