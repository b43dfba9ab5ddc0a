"""WebP: its size, from whichever chunk says it."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from service.errors import Unprocessable
from service.tasks.inputs.pictures.formats import read_header
from service.tasks.inputs.pictures.header import MOST_PARTS
from tests.support.models import flower


def photograph(width=40, height=30, mode="RGB", **how):
    file = io.BytesIO()
    with Image.open(io.BytesIO(flower())) as whole:
        picture = whole.resize((width, height)).convert(mode)
        if mode == "RGBA":
            picture.putalpha(picture.convert("L"))
        picture.save(file, "WEBP", **how)
    return file.getvalue()


def riff(*chunks):
    body = b"WEBP" + b"".join(chunks)
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def chunk(kind, content):
    return struct.pack("<4sI", kind, len(content)) + content + bytes(len(content) & 1)


def vp8x(flags, width, height):
    return chunk(
        b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    )


def vp8l(width, height):
    """The header of a lossless picture of this size, and nothing of it."""
    return chunk(b"VP8L", b"\x2f" + ((height - 1) << 14 | width - 1).to_bytes(4, "little") + bytes(5))


def frame(left, top, width, height, *chunks):
    numbers = (left // 2, top // 2, width - 1, height - 1, 100)
    return chunk(b"ANMF", b"".join(n.to_bytes(3, "little") for n in numbers) + b"\0" + b"".join(chunks))


def bitstream(data):
    """The chunk with the pixels of a WebP without VP8X."""
    assert data[12:16] in (b"VP8 ", b"VP8L")
    return data[12:]


KINDS = {
    "lossy": {},
    "lossless": {"lossless": True},
    "with alpha": {"mode": "RGBA"},
    "lossless with alpha": {"mode": "RGBA", "lossless": True},
    "with metadata": {"exif": b"Exif\0\0II*\0", "icc_profile": bytes(200)},
    "animated": {"save_all": True, "append_images": [Image.new("RGB", (40, 30), "teal")]},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(40, 30), (1, 1), (300, 7)])
def test_the_size_is_that_of_the_picture(kind, size):
    if kind == "animated" and size != (40, 30):
        size = (41, 30)
        KINDS[kind]["append_images"] = [Image.new("RGB", size, "teal")]
    header = read_header(photograph(*size, **KINDS[kind]))
    assert (header.width, header.height) == size
    assert header.decode(header.file).shape == (3, size[1], size[0])


def test_a_canvas_that_is_not_its_pictures_size_is_refused_by_the_decoder():
    data = bytearray(photograph(mode="RGBA"))
    assert data[12:16] == b"VP8X"
    data[24:30] = (9).to_bytes(3, "little") * 2
    header = read_header(bytes(data))
    assert (header.width, header.height) == (10, 10)
    with pytest.raises(RuntimeError):
        header.decode(header.file)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (photograph()[:12], "it ends before its size"),
        (photograph()[:25], "it ends before its size"),
        (photograph()[:12] + struct.pack("<4sI", b"VP8L", 5) + b"\0" * 5, "it ends before its size"),
        (riff(struct.pack("<4sI", b"abcd", 0) * MOST_PARTS), "more than 20,000 chunks"),
        (riff(vp8x(0x02, 40, 30)), "it is an animation without a frame"),
    ],
)
def test_a_webp_that_cannot_be_read_is_refused_in_words(data, words):
    with pytest.raises(Unprocessable, match=f"The WebP is broken: .*{words}"):
        read_header(data)


def test_the_first_chunk_alone_says_how_large_the_picture_is():
    """libwebp goes by it too, and would take memory for 268 megapixels."""
    for hiding in (vp8x(0, 300, 300), vp8x(0x02, 300, 300), bitstream(photograph())):
        header = read_header(riff(vp8l(16383, 16383), hiding))
        assert (header.width, header.height) == (16383, 16383)


def test_a_frame_may_be_smaller_than_its_canvas_and_lies_where_it_says():
    still = photograph(lossless=True)
    header = read_header(riff(vp8x(0x02, 100, 90), chunk(b"ANIM", bytes(6)), frame(20, 10, 40, 30, bitstream(still))))
    assert (header.width, header.height) == (100, 90)
    canvas = torch.zeros(3, 90, 100, dtype=torch.uint8)
    alone = read_header(still)
    canvas[:, 10:40, 20:60] = alone.decode(alone.file)
    assert torch.equal(header.decode(header.file), canvas)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [True, False])
def test_the_first_frame_is_decoded_as_pillow_does(mode, lossless):
    others = [Image.new(mode, (40, 30), "teal")]
    data = photograph(mode=mode, lossless=lossless, save_all=True, append_images=others, exact=True)
    header = read_header(data)
    with Image.open(io.BytesIO(data)) as file:
        assert file.n_frames == 2
        expected = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
    assert (header.decode(header.file).int() - expected.int()).abs().max() <= (0 if lossless else 2)


@pytest.mark.parametrize("left", [0, 80])
def test_a_frame_that_says_another_size_or_reaches_out_is_refused(left):
    size = (40, 30) if left else (60, 60)
    moving = riff(vp8x(0x02, 100, 90), frame(left, 0, *size, bitstream(photograph(lossless=True))))
    header = read_header(moving)
    with pytest.raises((RuntimeError, ValueError)):
        header.decode(header.file)


def test_metadata_counts_as_libwebp_counts_it():
    turned = b"II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x112, 3, 1, 6, 0) + bytes(4)
    pixels = bitstream(photograph())
    assert read_header(riff(vp8x(0x08, 40, 30), pixels, chunk(b"EXIF", turned))).orientation == 6
    assert read_header(riff(vp8x(0x00, 40, 30), pixels, chunk(b"EXIF", turned))).orientation == 1
    assert read_header(riff(pixels, chunk(b"EXIF", turned))).orientation == 1
    assert read_header(riff(vp8x(0x08, 40, 30), pixels) + chunk(b"EXIF", turned)).orientation == 1
