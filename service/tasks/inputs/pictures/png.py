"""PNG: its chunks, of which the decoder gets only those that make the picture.

Pillow unpacks every text and profile it meets, in Python, chunk by chunk: a file of 64 KB makes it unpack 64 MB.
Source: PNG specification, third edition, 5 and 11.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from service.tasks.inputs.pictures.decoders import with_pillow
from service.tasks.inputs.pictures.header import MOST_PARTS, BrokenPictureError, Header, orientation

_HEADER_BYTES = 13
#: An orientation is in the first bytes of what holds it, packed and unpacked; the rest is not read.
_MOST_METADATA_BYTES = 65_536
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
#: By colour type (PNG, 11.2.1), samples a pixel.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: Worst cost of a byte, in pixels decoded once: deflate may have a new set of tables every few bytes.
_BYTE = 10
#: Keywords of text that may hold an orientation: XMP's, and the one that ImageMagick gave EXIF before it had a chunk.
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp", b"Raw profile type exif"


#: A type, and `data[start:end]`, its content; the whole, with length, type and checksum, is 8 before to 4 after.
Chunk = tuple[bytes, int, int]


class _Parts(NamedTuple):
    """The chunks that count: the first header and palette, the pixels, and the last place of each kind of metadata."""

    header: Chunk
    palette: list[Chunk]
    pixels: list[Chunk]
    metadata: dict[bytes, Chunk]


def read(data: bytes) -> Header:
    """Read the chunks of a PNG.

    Raises:
        BrokenPictureError: it does not begin with a header, or holds no pixels.
    """
    parts = _parts(data)
    width, height, depth, colour = struct.unpack_from(">IIBB", data, parts.header[1])
    return Header(
        "PNG",
        width,
        height,
        _orientation(data, parts.metadata),
        1,
        _only_pixels(data, parts),
        with_pillow,
        pixel_bytes=max(1, depth * _SAMPLES.get(colour, 4) // 8),
        byte_cost=_BYTE,
    )


def _chunks(data: bytes) -> Iterator[Chunk]:
    """Walk the chunks to the end of the picture or of the data.

    Raises:
        BrokenPictureError: there are more than `MOST_PARTS`.
    """
    at, size = 8, len(data)
    for _ in range(MOST_PARTS):
        if at + 8 > size:
            return
        length, kind = _CHUNK.unpack_from(data, at)
        end = at + 8 + length
        yield kind, at + 8, end if end < size else size
        if kind == b"IEND":
            return
        at = end + 4
    raise BrokenPictureError(f"it has more than {MOST_PARTS:,} chunks")


_CHUNK = struct.Struct(">I4s")


def _parts(data: bytes) -> _Parts:
    """Sort the chunks. A chunk of another kind ends the pixels, and a palette after them is ignored.

    Raises:
        BrokenPictureError: it does not begin with a header, or holds no pixels.
    """
    chunks = _chunks(data)
    header = next(chunks, (b"", 0, 0))
    if header[0] != b"IHDR" or header[2] - header[1] != _HEADER_BYTES:
        raise BrokenPictureError("it does not begin with a header")
    parts = _Parts(header, [], [], {})
    ended = False
    for chunk in chunks:
        kind = chunk[0]
        if kind == b"IDAT":
            if not ended:
                parts.pixels.append(chunk)
            continue
        ended = bool(parts.pixels)
        if kind == b"PLTE" and not parts.palette and not ended:
            parts.palette.append(chunk)
        elif kind == b"eXIf":
            parts.metadata[kind] = chunk
        elif kind in _TEXTS and (keyword := _keyword(data, chunk[1])):
            parts.metadata[keyword] = chunk
    if not parts.pixels:
        raise BrokenPictureError("it holds no pixels")
    return parts


def _keyword(data: bytes, at: int) -> bytes:
    """The keyword of a text, if it is one that may hold an orientation."""
    return next((keyword for keyword in (_XMP, _RAW_EXIF) if data.startswith(keyword + b"\0", at)), b"")


def _only_pixels(data: bytes, parts: _Parts) -> bytes:
    """Join one header, one palette, and the pixels in one chunk: each chunk costs Pillow 10 µs."""
    before = b"".join(data[start - 8 : end + 4] for _, start, end in [parts.header, *parts.palette])
    pixels = b"".join(data[start:end] for _, start, end in parts.pixels)
    # Pillow reads no checksum of pixels: zlib has one of its own.
    return b"".join([data[:8], before, _CHUNK.pack(len(pixels), b"IDAT"), pixels, bytes(4), _END])


_END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))


def _orientation(data: bytes, metadata: dict[bytes, Chunk]) -> int:
    """The orientation in EXIF or XMP; of each only the last place is unpacked."""
    _, start, end = metadata.get(b"eXIf", (b"", 0, 0))
    exif = data[start:end]
    if not exif and _RAW_EXIF in metadata:
        exif = _raw_profile(_text(data, metadata[_RAW_EXIF]))
    return orientation(exif, _text(data, metadata[_XMP]) if _XMP in metadata else b"")


def _text(data: bytes, chunk: Chunk) -> bytes:
    """The text of a chunk after its keyword: plain, packed, or international, which may be either."""
    kind, start, end = chunk
    _, _, content = data[start : min(end, start + _MOST_METADATA_BYTES)].partition(b"\0")
    if kind == b"tEXt":
        return content
    if kind == b"zTXt":  # a method comes first
        return _unpacked(content[1:])
    packed, fields = content[:1] == b"\1", content[2:].split(b"\0", 2)  # flag and method; language, keyword, text
    text = fields[2] if len(fields) == 3 else b""
    return _unpacked(text) if packed else text


def _unpacked(packed: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, _MOST_METADATA_BYTES)
    except zlib.error:
        return b""


def _raw_profile(text: bytes) -> bytes:
    """EXIF in ImageMagick's form: a line break, the profile's name, its length, and hexadecimal digits in lines."""
    digits = b"".join(text.split(b"\n")[3:])
    try:
        return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
    except ValueError:
        return b""
