"""The header of a picture file, in one shape for every format."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

#: A file with more segments, chunks or blocks than this is refused: walking them costs a third of a microsecond each.
MOST_PARTS = 20_000


class BrokenPictureError(ValueError):
    """The file breaks its format's rules; the message is a clause that says how, such as `it holds no pixels`."""


class Header(NamedTuple):
    """Everything that a decoder needs to know of a picture, and that an operator limits.

    Attributes:
        format: its name, such as `JPEG`.
        width: pixels, as stored, before the orientation is applied.
        height: pixels, as stored.
        orientation: EXIF's, 1 to 8; 1 is upright.
        passes: how many times the decoder goes over all pixels: the scans of a progressive JPEG, else 1. Those of
            arithmetic coding count more.
        file: what the decoder is given: the same picture without whatever readers could understand differently, and
            without what the decoder would unpack for nothing.
        decode: `(3, height, width) uint8`, RGB, from `file`.
        pixel_bytes: bytes that a pixel has when it is unpacked, where the decoder keeps them so.
        byte_cost: what a byte of `file` may cost at worst, in pixels decoded once.
    """

    format: str
    width: int
    height: int
    orientation: int
    passes: int
    file: bytes
    decode: Callable[[bytes], Tensor]
    pixel_bytes: int = 1
    byte_cost: int = 0


#: The last two are wrong, and Pillow takes them.
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II\0*": "<", b"MM*\0": ">"}
_ORIENTATION, _SHORT, _LONG = 0x0112, 3, 4
#: Types and numbers of values that stand in the tag itself, in four bytes.
_INLINE = {(_SHORT, 1), (_SHORT, 2), (_LONG, 1)}
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def orientation(exif: bytes, xmp: bytes = b"") -> int:
    """Return a picture's orientation, 1 to 8; 1 where none is stated or it is out of range.

    As Pillow's `exif_transpose` does, EXIF goes before XMP, and an orientation in EXIF that is out of range stands.
    Sources: TIFF 6.0, section 2; Exif 2.32, 4.6.4; XMP specification part 2, 2.3.

    Args:
        exif: a TIFF file with the EXIF tags, with or without the `Exif` prefix of a JPEG segment; may be empty.
        xmp: an XMP packet; may be empty.
    """
    stated = _from_tiff(exif.removeprefix(b"Exif\0\0"))
    if stated is None and (found := _IN_XMP.search(xmp)):
        stated = int(found[1])
    return stated if stated and stated <= 8 else 1


def _from_tiff(tiff: bytes) -> int | None:
    """The orientation tag of the first directory; of several tags the first, of several values too, as in Pillow."""
    order = _BYTE_ORDERS.get(tiff[:4])
    if order is None or len(tiff) < 10:
        return None
    (at,) = struct.unpack_from(f"{order}I", tiff, 4)
    if at + 2 > len(tiff):
        return None
    (count,) = struct.unpack_from(f"{order}H", tiff, at)
    entry = struct.Struct(f"{order}HHI")
    for place in range(at + 2, min(at + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind, values = entry.unpack_from(tiff, place)
        if tag == _ORIENTATION and (kind, values) in _INLINE:
            (stated,) = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", tiff, place + 8)
            return int(stated)
    return None
