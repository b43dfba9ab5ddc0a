"""CSV bodies: a line of numbers for each example."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy.typing as npt

from service.errors import Malformed, Unprocessable
from service.signature import TensorSpec
from service.tasks.inputs.numbers import array_of, check_range, number_list


def read_csv(body: bytes, spec: TensorSpec, most: int) -> npt.NDArray[Any]:
    """Return `(N, *shape)` of lines of numbers with commas between them, for an input of at most one dimension.

    Lines end in LF or CRLF; there is no line of names. (RFC 4180)

    Raises:
        Malformed: it is not text.
        Unprocessable: a line has more or fewer numbers, or what is not a number of the dtype.
    """
    try:
        lines = body.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise Malformed("The CSV body has bytes that are not ASCII; it must be numbers with commas.") from error
    lines = [line for line in lines if line.strip()]
    width = math.prod(spec.shape)
    for number, line in enumerate(lines[: most + 1], 1):
        if line.count(",") != width - 1:
            found = line.count(",") + 1
            raise Unprocessable(f"Line {number} of the CSV body has {found} numbers; it must have {width}.")
    text = f"[{','.join(lines[: most + 1])}]"
    try:
        values = number_list(spec.dtype).decode(text)
    except msgspec.MsgspecError as error:
        raise Unprocessable(f"The CSV body does not hold numbers of {spec.dtype}: {error}.") from error
    array = array_of(spec, values, len(lines[: most + 1]))
    check_range(spec, array)
    return array
