"""Headers, damaged and crafted by the thousand: the size that is read is the size that any decoder decodes."""

from __future__ import annotations

import io
import random
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from service.errors import Unprocessable
from service.tasks.inputs.pictures.decoders import with_torchvision
from service.tasks.inputs.pictures.formats import read_header
from tests.support import jpegs
from tests.unit.tasks.inputs.test_damaged_pictures import GIFS, JPEGS, PNGS, WEBPS

FILES = 5_000  # of each kind, of which there are four
MOST_PIXELS = 1_000_000


def oddity(draw: random.Random) -> bytes:
    """Make what lies between two segments of a JPEG: junk, a marker that stands alone, or a decoy of another size."""
    width, height = draw.choice([1, 7, 16, 40, 300]), draw.choice([1, 9, 33, 200])
    frame = jpegs.frame(draw.choice([0xC0, 0xC1, 0xC2]), width, height, 3)
    any_marker = bytes([0xFF, draw.randrange(256)])
    return draw.choice(
        [
            b"\xff" * draw.randrange(1, 5),
            b"\xff\x00" + draw.randbytes(draw.randrange(6)),
            b"\xff\x00" + struct.pack(">H", draw.randrange(2, 60)),
            draw.randbytes(draw.randrange(1, 9)),
            bytes([0xFF, draw.randrange(0xD0, 0xD8)]),
            b"\xff\x01",
            any_marker,
            any_marker + struct.pack(">H", len(frame) + 2) + frame,
            frame,
            jpegs.segment(0xFE, frame),
            jpegs.segment(0xDE, frame[4:]),
            jpegs.segment(0xDC, struct.pack(">H", draw.randrange(500))),
            jpegs.segment(0xDD, b"\0\2"),
            b"\xff\xe0\x00" + bytes([draw.randrange(4)]),
            b"\xff\xe1" + struct.pack(">H", draw.randrange(40)) + draw.randbytes(20),
            jpegs.SOI,
            jpegs.EOI,
        ]
    )


def crafted(draw: random.Random) -> bytes:
    parts = jpegs.segments_of(draw.choice(JPEGS))
    for _ in range(draw.randrange(1, 4)):
        parts.insert(draw.randrange(len(parts)), oddity(draw))
    if draw.random() < 0.2:
        at = draw.randrange(len(parts) - 1)
        parts[at], parts[at + 1] = parts[at + 1], parts[at]
    return jpegs.SOI + b"".join(parts)


def damaged(pictures: list[bytes]) -> Callable[[random.Random], bytes]:
    def make(draw: random.Random) -> bytes:
        data = bytearray(draw.choice(pictures))
        for _ in range(draw.randrange(1, 5)):
            at = draw.randrange(min(len(data), draw.choice([40, 200, 700, 100_000])))
            size = draw.randrange(5)
            data[at : at + size] = draw.randbytes(draw.choice([size, size, draw.randrange(5)]))
        return bytes(data)

    return make


MAKERS = {"crafted JPEG": crafted, "JPEG": damaged(JPEGS), "PNG and GIF": damaged(PNGS + GIFS), "WebP": damaged(WEBPS)}


def outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        return error


def by_pillow(data: bytes) -> tuple[int, int]:
    """The size that Pillow decodes; of a picture too large for a test, the one that it reads."""
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "GIF", "WEBP")) as file:
        if file.width * file.height <= MOST_PIXELS:
            file.load()
        return file.size


def by_torchvision(data: bytes) -> tuple[int, int]:
    _, height, width = with_torchvision(data).shape
    return width, height


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", MAKERS)
def test_the_size_that_is_read_is_the_size_that_any_decoder_sees(kind):
    draw, seen = random.Random(kind), Counter()
    for _ in range(FILES):
        data = MAKERS[kind](draw)
        header = outcome(lambda data=data: read_header(data))
        if isinstance(header, Exception):
            assert isinstance(header, Unprocessable), data.hex()
            seen["refused"] += 1
            continue
        size = header.width, header.height
        seen["read"] += 1
        sizes = {"Pillow": outcome(lambda data=data: by_pillow(data))}
        if header.width * header.height <= MOST_PIXELS:
            sizes["ours"] = outcome(lambda header=header: tuple(header.decode(header.file).shape[:0:-1]))
            if header.format in ("JPEG", "WebP"):
                sizes["torchvision"] = outcome(lambda data=data: by_torchvision(data))
        for decoder, found in sizes.items():
            if not isinstance(found, Exception):
                assert found == size, f"{decoder} sees {found}, the header says {size}: {data.hex()}"
                seen[decoder] += 1
    print(f"{kind}: {dict(seen)}")
    assert seen["ours"] > FILES / 10
    assert seen["refused"] > FILES / 50
