"""JPEG files put together marker by marker, which no encoder writes."""

from __future__ import annotations

import struct

SOI, EOI = b"\xff\xd8", b"\xff\xd9"


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


#: One quantisation table, and Huffman tables of one code each: a DC difference of 0, and a run of 2^14 empty blocks.
TABLES = (
    segment(0xDB, b"\0" + b"\1" * 64)
    + segment(0xC4, b"\0" + bytes([1, *[0] * 15]) + b"\0")
    + segment(0xC4, b"\x10" + bytes([1, *[0] * 15]) + b"\xe0")
)


def frame(marker: int, width: int, height: int, components: int = 1, bits: int = 8) -> bytes:
    content = struct.pack(">BHHB", bits, height, width, components)
    return segment(marker, content + b"".join(bytes([number + 1, 0x11, 0]) for number in range(components)))


def scan(first: int, last: int, components: tuple[int, ...] = (1,), approximation: int = 0) -> bytes:
    """The header of a scan over coefficients `first` to `last`."""
    each = b"".join(bytes([number, 0]) for number in components)
    return segment(0xDA, bytes([len(components)]) + each + bytes([first, last, approximation]))


def progressive(width: int, height: int, scans: int, *between: bytes) -> bytes:
    """A grey picture in this many scans, all of nothing; `between` come before each scan but the first."""
    blocks = -(-width // 8) * -(-height // 8)
    runs = "011111111111111" * -(-blocks // 32767)
    runs += "1" * (-len(runs) % 8)
    empty = int(runs, 2).to_bytes(len(runs) // 8).replace(b"\xff", b"\xff\0")
    first = scan(0, 0) + bytes(-(-blocks // 8))
    others = (b"".join(between) + scan(1, 63) + empty) * (scans - 1)
    return SOI + TABLES + frame(0xC2, width, height) + first + others + EOI


def sequential(width: int, height: int, scans: int) -> bytes:
    """A baseline picture of three components, each scan of one of them alone, again and again."""
    parts = [scan(0, 63, (number % 3 + 1,)) for number in range(scans)]
    return SOI + TABLES + frame(0xC0, width, height, 3) + b"".join(parts) + EOI


def segments_of(data: bytes) -> list[bytes]:
    """The segments of a JPEG as an encoder writes it; the last one is everything from the first scan on."""
    found, at = [], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        found.append(data[at:end])
        at = end
    return [*found, data[at:]]
