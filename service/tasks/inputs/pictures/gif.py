"""GIF: its first frame, without the extensions before it, which Pillow reads block by block, in Python.

Source: GIF89a specification, 15 to 26.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from service.tasks.inputs.pictures.decoders import with_pillow
from service.tasks.inputs.pictures.header import MOST_PARTS, BrokenPictureError, Header

_EXTENSION, _FRAME, _TRAILER, _GRAPHIC_CONTROL = 0x21, 0x2C, 0x3B, 0xF9
_SCREEN_BYTES = 13


def read(data: bytes) -> Header:
    """Read a GIF to its first frame.

    Raises:
        BrokenPictureError: it ends before one.
    """
    if len(data) < _SCREEN_BYTES:
        raise BrokenPictureError("it ends within its header")
    width, height = struct.unpack_from("<HH", data, 6)
    start = at = _SCREEN_BYTES + _table_bytes(data[10])
    control = b""
    budget = iter(range(MOST_PARTS))  # of extensions and of the blocks in them
    for _ in budget:
        kind = data[at] if at < len(data) else _TRAILER
        if kind == _FRAME:
            break
        if kind == _TRAILER:
            raise BrokenPictureError("it ends before its first frame")
        if kind == _EXTENSION:
            end = _after_blocks(data, at + 2, budget)
            if data[at + 1 : at + 2] == bytes([_GRAPHIC_CONTROL]):
                control = data[at:end]
            at = end
        else:  # a stray byte, which Pillow passes over
            at += 1
    else:
        raise BrokenPictureError(f"it has more than {MOST_PARTS:,} parts before its first frame")
    if at + 9 > len(data):
        raise BrokenPictureError("it ends within its first frame")
    left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
    # Pillow enlarges the picture for a frame that reaches out of the screen.
    size = max(width, left + frame_width), max(height, top + frame_height)
    return Header("GIF", *size, 1, 1, data[:start] + control + data[at:], with_pillow)


def _table_bytes(flags: int) -> int:
    """Bytes of the colour table that flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int, budget: Iterator[int]) -> int:
    """Return the place after a chain of sub-blocks, each with its length before it.

    When the budget is used up it goes no further, and nor does the caller.
    """
    for _ in budget:
        if at >= len(data) or not data[at]:
            return at + 1
        at += 1 + data[at]
    return at
