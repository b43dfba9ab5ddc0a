"""Arrays as clients send them, in numpy's own formats: npy and npz. Nothing is unpickled, no size is believed.

Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import functools
import io
import math
import zipfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import Malformed, TooLarge, Unprocessable

_Array = npt.NDArray[Any]
#: A header is a line of Python of some hundred bytes (numpy's own limit is 10,000).
MOST_HEADER_BYTES = 10_000


def read_npy(data: bytes | memoryview, what: str = "The body") -> _Array:
    """Return the array of an npy file, in C order and this machine's byte order; a view of the data where it can be.

    Raises:
        Malformed: it is not one, or has more or fewer bytes than its header says.
        Unprocessable: it holds Python objects or records.
    """
    try:
        shape, is_fortran, dtype, end = _header(_header_bytes(data))
    except Exception as error:  # of the parser of Python that reads the header
        raise Malformed(f"{what} is not an npy file, as numpy.save writes it.") from error
    if dtype.hasobject or dtype.names:
        raise Unprocessable(f"{what} holds {dtype}; only numbers and booleans are read.")
    content = memoryview(data)[end:]
    if min(shape, default=1) < 0 or len(content) != math.prod(shape) * dtype.itemsize:
        raise Malformed(
            f"{what} has {len(content):,} bytes after its header, which says {dtype} of shape {tuple(shape)}."
        )
    array = np.frombuffer(content, dtype) if dtype.itemsize else np.zeros(0, dtype)
    array = array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(shape)


def _header_bytes(data: bytes | memoryview) -> bytes:
    """Return an npy file's beginning up to its numbers; its length is 2 bytes in version 1.0, and 4 in others."""
    size = 2 if data[6:7] == b"\x01" else 4
    end = 8 + size + int.from_bytes(data[8 : 8 + size], "little")
    return bytes(data[: min(end, MOST_HEADER_BYTES)])


@functools.lru_cache(maxsize=256)
def _header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, order, dtype and the length of a header. A client's headers are alike; to parse one takes 40 µs."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return *read_header(file, max_header_size=MOST_HEADER_BYTES), file.tell()


def read_npz(data: bytes, most_bytes: int) -> dict[str, _Array]:
    """Return the arrays of an npz file by name.

    Args:
        most_bytes: of all arrays, unpacked, with their headers.

    Raises:
        Malformed: it is not one, is damaged, or has a name twice.
        TooLarge: its arrays are larger.
        Unprocessable: one of them is not of numbers.
    """
    arrays: dict[str, _Array] = {}
    left = most_bytes
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name in arrays:
                    raise Malformed(f"The npz file has {name[:80]!r} twice.")
                with archive.open(info) as file:
                    content = file.read(left + 1)
                left -= len(content)
                if left < 0:
                    raise TooLarge(f"The arrays of the npz file are over the limit of {most_bytes:,} bytes.")
                arrays[name] = read_npy(content, f"{name[:80]!r} in the npz file")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        raise Malformed(f"The body is not an npz file, as numpy.savez writes it: {error}.") from error
    return arrays
