"""PNG: what reaches the decoder, and what metadata costs."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
import torch
from PIL import Image

from service.errors import Unprocessable
from service.tasks.inputs.pictures import png
from service.tasks.inputs.pictures.formats import read_header
from service.tasks.inputs.pictures.header import MOST_PARTS
from tests.support.models import flower


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))


def photograph(mode="RGB"):
    file = io.BytesIO()
    with Image.open(io.BytesIO(flower())) as whole:
        whole.resize((40, 30)).convert(mode).save(file, "PNG")
    return file.getvalue()


def with_chunks(data, *chunks):
    return data[:33] + b"".join(chunks) + data[33:]


def decoded(data):
    header = read_header(data)
    return header.decode(header.file)


BOMB = zlib.compress(bytes(3_000_000))
METADATA = {
    "a profile of 3 MB": chunk(b"iCCP", b"p\0\0" + BOMB),
    "a packed text of 3 MB": chunk(b"zTXt", b"c\0\0" + BOMB),
    "an international text of 3 MB": chunk(b"iTXt", b"c\0\1\0\0\0" + BOMB),
    "a hundred of them": chunk(b"zTXt", b"c\0\0" + BOMB) * 100,
    "XMP of 3 MB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "a raw profile of 3 MB": chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
    "a raw profile that is not hexadecimal": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 9\nnothing"),
    "a plain text of 2 MB": chunk(b"tEXt", b"c\0" + b"a" * 2_000_000),
    "XMP without its fields": chunk(b"iTXt", b"XML:com.adobe.xmp\0"),
    "a text that does not unpack": chunk(b"zTXt", b"Raw profile type exif\0\0nothing"),
    "a chunk of a kind that nobody knows": chunk(b"abCd", b"x" * 100),
    "a damaged checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"x",
}


@pytest.mark.parametrize("metadata", METADATA)
def test_metadata_of_any_size_is_passed_over(metadata):
    data = with_chunks(photograph(), METADATA[metadata])
    assert torch.equal(decoded(data), decoded(photograph()))
    assert len(read_header(data).file) <= len(photograph())


def test_of_many_texts_that_may_hold_an_orientation_one_is_unpacked(monkeypatch):
    unpacked = []
    monkeypatch.setattr(png, "_unpacked", lambda packed: unpacked.append(len(packed)) or b"")
    packed = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB)
    read_header(with_chunks(photograph(), packed * 500))
    assert len(unpacked) == 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1"])
def test_pixels_in_many_chunks_are_the_same_picture(mode):
    data = photograph(mode)
    at = data.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", data, at)
    pixels = data[at + 8 : at + 8 + length]
    split = b"".join(chunk(b"IDAT", pixels[n : n + 3]) for n in range(0, len(pixels), 3))
    assert torch.equal(decoded(data[:at] + split + data[at + 12 + length :]), decoded(data))


def test_of_two_headers_the_first_one_counts():
    small = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    data = with_chunks(photograph(), chunk(b"IHDR", small))
    assert (read_header(data).width, read_header(data).height) == (40, 30)
    assert decoded(data).shape == (3, 30, 40)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (photograph()[:20], "it does not begin with a header"),
        (photograph()[:8] + chunk(b"CgBI", bytes(4)) + photograph()[8:], "it does not begin with a header"),
        (photograph()[:33], "it holds no pixels"),
        (photograph()[:33] + chunk(b"IEND"), "it holds no pixels"),
        (with_chunks(photograph(), chunk(b"abCd") * MOST_PARTS), "more than 20,000 chunks"),
    ],
)
def test_a_png_that_cannot_be_read_is_refused_in_words(data, words):
    with pytest.raises(Unprocessable, match=f"The PNG is broken: .*{words}"):
        read_header(data)
