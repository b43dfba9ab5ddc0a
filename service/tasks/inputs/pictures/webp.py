"""WebP: the chunks of its RIFF container, and the first frame of an animation.

Sources: RFC 9649, 2 (container); RFC 6386, 9.1 (size in a VP8 key frame); RFC 9649, 3.4 (size in VP8L).
"""

from __future__ import annotations

import functools
import struct
from typing import NamedTuple

import torch
from torch import Tensor

from service.tasks.inputs.pictures.decoders import with_torchvision
from service.tasks.inputs.pictures.header import MOST_PARTS, BrokenPictureError, Header, orientation

#: Flags of VP8X.
_ANIMATED, _XMP, _EXIF, _ALPHA = 0x02, 0x04, 0x08, 0x10
_CANVAS_BYTES, _FRAME_BYTES = 10, 16
#: Worst cost of a byte, in pixels decoded once: lossless coding may have a new set of tables every few bytes.
LOSSY_BYTE, LOSSLESS_BYTE = 10, 150


class Chunk(NamedTuple):
    """A chunk: its content is `data[start:end]`."""

    kind: bytes
    start: int
    end: int


def read(data: bytes) -> Header:
    """Read the chunks of a WebP.

    As in libwebp, the first chunk alone says how large the picture is. Where that is VP8X, libwebp refuses a picture
    of another size before it takes memory.

    Raises:
        BrokenPictureError: the first chunk does not say how large it is, or an animation has no frame.
    """
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    chunks = _chunks(data, 12, end)
    if not chunks:
        raise BrokenPictureError("it ends before its size")
    width, height = _size(data, chunks[0])
    flags = data[chunks[0].start] if chunks[0].kind == b"VP8X" else 0
    exif = _content(data, chunks, b"EXIF") if flags & _EXIF else b""
    xmp = _content(data, chunks, b"XMP ") if flags & _XMP else b""
    kinds = {chunk.kind for chunk in chunks}
    file, decode = data, with_torchvision
    if flags & _ANIMATED:
        left, top, kinds, file = _first_frame(data, chunks)
        decode = functools.partial(_on_canvas, width, height, left, top)
    return Header(
        "WebP",
        width,
        height,
        orientation(exif, xmp),
        1,
        file,
        decode,
        byte_cost=LOSSLESS_BYTE if kinds & {b"VP8L", b"ALPH"} else LOSSY_BYTE,
    )


def _chunks(data: bytes, at: int, end: int) -> list[Chunk]:
    """Walk the chunks between two places.

    Raises:
        BrokenPictureError: there are more than `MOST_PARTS`.
    """
    found: list[Chunk] = []
    for _ in range(MOST_PARTS):
        if at + 8 > end:
            return found
        kind, length = struct.unpack_from("<4sI", data, at)
        found.append(Chunk(kind, at + 8, min(at + 8 + length, end)))
        at += 8 + length + (length & 1)
    raise BrokenPictureError(f"it has more than {MOST_PARTS:,} chunks")


def _content(data: bytes, chunks: list[Chunk], kind: bytes) -> bytes:
    """Return the content of the first chunk of a kind; empty if there is none."""
    return next((data[chunk.start : chunk.end] for chunk in chunks if chunk.kind == kind), b"")


def _size(data: bytes, first: Chunk) -> tuple[int, int]:
    content = data[first.start : min(first.end, first.start + 10)]
    if first.kind == b"VP8X" and len(content) == _CANVAS_BYTES:
        return _integer(content, 4) + 1, _integer(content, 7) + 1
    if first.kind == b"VP8L" and len(content) >= 5 and content[0] == 0x2F:
        bits = int.from_bytes(content[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if first.kind == b"VP8 " and len(content) == 10 and content[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", content, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise BrokenPictureError("it ends before its size")


def _integer(content: bytes, at: int) -> int:
    return int.from_bytes(content[at : at + 3], "little")


def _first_frame(data: bytes, chunks: list[Chunk]) -> tuple[int, int, set[bytes], bytes]:
    """Return the left and top edge of an animation's first frame, its kinds of chunk, and the frame as a WebP file.

    Raises:
        BrokenPictureError: there is none.
    """
    frame = next((chunk for chunk in chunks if chunk.kind == b"ANMF"), None)
    if frame is None or frame.end - frame.start < _FRAME_BYTES:
        raise BrokenPictureError("it is an animation without a frame")
    at = frame.start
    inside = {chunk.kind: chunk for chunk in reversed(_chunks(data, at + _FRAME_BYTES, frame.end))}
    wanted = [inside[kind] for kind in (b"ALPH", b"VP8 ", b"VP8L") if kind in inside]
    # VP8X holds the size minus one, as the frame does; with it, libwebp refuses a picture of another size.
    head = struct.pack("<B3x", _ALPHA if b"ALPH" in inside or b"VP8L" in inside else 0) + data[at + 6 : at + 12]
    body = b"WEBP" + _packed(b"VP8X", head)
    body += b"".join(_packed(chunk.kind, data[chunk.start : chunk.end]) for chunk in wanted)
    return 2 * _integer(data, at), 2 * _integer(data, at + 3), set(inside), _packed(b"RIFF", body)


def _packed(kind: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(content)) + content + bytes(len(content) & 1)


def _on_canvas(width: int, height: int, left: int, top: int, file: bytes) -> Tensor:
    """Decode a frame and lay it on a canvas, black where there is nothing: `(3, height, width) uint8`.

    Raises:
        ValueError: it reaches out of the canvas.
    """
    frame = with_torchvision(file)
    _, rows, columns = frame.shape
    if (columns, rows) == (width, height):
        return frame
    if left + columns > width or top + rows > height:
        raise ValueError("its first frame reaches out of the canvas")
    canvas = torch.zeros(3, height, width, dtype=torch.uint8)
    canvas[:, top : top + rows, left : left + columns] = frame
    return canvas
