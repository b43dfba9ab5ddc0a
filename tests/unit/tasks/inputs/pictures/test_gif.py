"""GIF: its first frame, whatever lies before it."""

from __future__ import annotations

import io
import struct

import pytest
import torch
from PIL import Image

from service.errors import Unprocessable
from service.tasks.inputs.pictures.formats import read_header
from service.tasks.inputs.pictures.header import MOST_PARTS
from tests.support.models import flower


def photograph(**how):
    file = io.BytesIO()
    with Image.open(io.BytesIO(flower())) as whole:
        whole.resize((40, 30)).quantize(16).save(file, "GIF", **how)
    return file.getvalue()


def first_extension(data):
    return 13 + (3 << (data[10] & 7) + 1)


def with_parts(data, *parts):
    at = first_extension(data)
    return data[:at] + b"".join(parts) + data[at:]


def decoded(data):
    header = read_header(data)
    return header.decode(header.file)


COMMENT = b"!\xfe" + b"".join(b"\x03abc" for _ in range(5_000)) + b"\0"


@pytest.mark.parametrize("parts", [COMMENT, b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0", b"!\xfe\0" * 1000, b"stray"])
def test_what_lies_before_the_first_frame_does_not_reach_the_decoder(parts):
    data = with_parts(photograph(), parts)
    assert torch.equal(decoded(data), decoded(photograph()))
    assert len(read_header(data).file) <= len(photograph())


def test_transparency_reaches_the_decoder():
    data = photograph(transparency=3)
    assert b"!\xf9" in read_header(data).file


@pytest.mark.parametrize(("screen", "size"), [((5, 5), (40, 30)), ((100, 90), (100, 90))], ids=["smaller", "larger"])
def test_a_screen_that_differs_from_its_frame_is_enlarged_where_the_frame_reaches_out(screen, size):
    data = bytearray(photograph())
    data[6:10] = struct.pack("<HH", *screen)
    header = read_header(bytes(data))
    assert (header.width, header.height) == size
    assert header.decode(header.file).shape == (3, *reversed(size))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (photograph()[:9], "it ends within its header"),
        (photograph()[: first_extension(photograph())], "it ends before its first frame"),
        (photograph()[: first_extension(photograph())] + b";", "it ends before its first frame"),
        (photograph()[: first_extension(photograph())] + b",\0\0", "it ends within its first frame"),
        (
            with_parts(photograph(), b"!\xfe" + b"\1x" * (MOST_PARTS + 1)),
            "more than 20,000 parts before its first frame",
        ),
        (with_parts(photograph(), (b"!\xfe" + b"\1x" * 199 + b"\0") * (MOST_PARTS // 200)), "more than 20,000 parts"),
        (with_parts(photograph(), b"!\xfe\0" * (MOST_PARTS + 1)), "more than 20,000 parts before its first frame"),
    ],
)
def test_a_gif_that_cannot_be_read_is_refused_in_words(data, words):
    with pytest.raises(Unprocessable, match=f"The GIF is broken: .*{words}"):
        read_header(data)
