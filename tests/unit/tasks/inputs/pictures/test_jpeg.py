"""The walk over a JPEG's markers: what libjpeg sees, and how often it goes over the pixels."""

from __future__ import annotations

import io
import struct

import pytest
import torch
from PIL import Image

from service.errors import Unprocessable
from service.tasks.inputs.pictures import jpeg
from service.tasks.inputs.pictures.decoders import with_torchvision
from service.tasks.inputs.pictures.formats import read_header
from service.tasks.inputs.pictures.header import MOST_PARTS
from service.tasks.inputs.pictures.jpeg import ARITHMETIC_PASSES
from tests.support import jpegs
from tests.support.models import flower


def photograph(width=150, height=100, mode="RGB", **how):
    file = io.BytesIO()
    with Image.open(io.BytesIO(flower())) as whole:
        whole.resize((width, height)).convert(mode).save(file, "JPEG", **how)
    return file.getvalue()


def rotated(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def with_parts(data, *parts, at=0):
    """The file with more before its segment number `at`."""
    found = jpegs.segments_of(data)
    return jpegs.SOI + b"".join([*found[:at], *parts, *found[at:]])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "how", [{}, {"progressive": True}, {"exif": rotated(6)}, {"comment": b"c" * 60_000}, {"icc_profile": bytes(90_000)}]
)
def test_the_size_of_a_jpeg_is_read_as_pillow_reads_it(mode, how):
    for width, height in [(1, 1), (150, 100), (1, 500), (700, 3)]:
        header = read_header(photograph(width, height, mode, **how))
        assert (header.format, header.width, header.height) == ("JPEG", width, height)


HIDING = {
    "a stuffed byte before a length": b"\xff\x00\x00\x40",
    "a stuffed byte before random bytes": b"\xff\x00abc",
    "fill bytes": b"\xff" * 7,
    "junk": b"junk",
    "zeros": bytes(50),
    "a restart marker": b"\xff\xd3",
    "a restart marker before a length": b"\xff\xd3\x00\x40",
    "TEM": b"\xff\x01",
    "TEM before a length": b"\xff\x01\x00\x40",
    "a comment without a length": b"\xff\xfe\x00\x00",
    "a comment of length 1": b"\xff\xfe\x00\x01",
    "a number of lines": jpegs.segment(0xDC, b"\x00\x08"),
    "a frame header in a comment": jpegs.segment(0xFE, jpegs.frame(0xC0, 16, 16, 3)),
    "a frame header in EXIF": jpegs.segment(0xE1, b"Exif\0\0" + jpegs.frame(0xC0, 16, 16, 3)),
}


@pytest.mark.parametrize("hiding", HIDING)
@pytest.mark.parametrize("place", [1, 3, 4])
def test_nothing_between_the_segments_hides_the_size(hiding, place):
    """A frame header of 16 x 16 lies where a reader that takes the oddity for a segment would go on."""
    decoy = jpegs.segment(0xFE, jpegs.frame(0xC0, 16, 16, 3) * 4)
    data = with_parts(photograph(), HIDING[hiding], decoy, at=place)
    header = read_header(data)
    assert (header.width, header.height) == (150, 100)
    assert with_torchvision(data).shape == (3, 100, 150), "libjpeg sees another size"
    assert torch.equal(header.decode(header.file), with_torchvision(photograph()))


@pytest.mark.parametrize("between", [b"\xff" * 5, b"\xff\x00\x00\x40", b"\xff\xd3", b"\xff\x01"])
def test_nothing_before_the_first_segment_hides_the_size(between):
    data = with_parts(photograph(), between, jpegs.segment(0xFE, jpegs.frame(0xC0, 16, 16, 3)))
    header = read_header(data)
    assert (header.width, header.height) == (150, 100)
    assert with_torchvision(data).shape == (3, 100, 150)


def test_an_ordinary_file_is_handed_on_as_it_is():
    data = photograph(exif=rotated(6), comment=b"c")
    assert read_header(data).file is data


def test_of_an_odd_file_the_decoder_gets_only_what_was_read():
    odd = with_parts(photograph(), b"junk\xff\x00", b"\xff" * 9, at=1)
    assert read_header(odd).file == photograph()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xd8\xff" + bytes(20), "it ends within its header"),
        (b"\xff\xd8\xff\xd9" + bytes(20), "it ends before its pixels"),
        (b"\xff\xd8\xff\xd8" + bytes(20), "it has two beginnings"),
        (b"\xff\xd8\xff\xe0\xff\xff" + bytes(20), "it ends within its header"),
        (b"\xff\xd8\xff\xc0\x00\x04\x08\x00\x10\x00\x10\x03" + bytes(20), "it ends within its header"),
        (jpegs.SOI + jpegs.scan(0, 63) + bytes(9), "it has pixels before a frame header"),
        (jpegs.SOI + jpegs.frame(0xC0, 8, 8) * 2 + jpegs.scan(0, 63), "it has two frame headers"),
        (
            jpegs.SOI + jpegs.frame(0xC5, 8, 8) + jpegs.scan(0, 63),
            r"coded in a way \(SOF5\) that no decoder here reads",
        ),
        (jpegs.SOI + jpegs.frame(0xC1, 8, 8, bits=12) + jpegs.scan(0, 63), "it has 12 bits a sample"),
        (jpegs.SOI + jpegs.frame(0xC0, 8, 8, 2) + jpegs.scan(0, 63), "it has 2 colour components"),
        (jpegs.SOI + jpegs.segment(0xF0, b"x") + jpegs.scan(0, 63), "a marker FFF0, which no JPEG has"),
        (jpegs.SOI + jpegs.segment(0xFE, b"") * MOST_PARTS + jpegs.frame(0xC0, 8, 8), "more than 20,000 segments"),
    ],
)
def test_a_header_that_libjpeg_refuses_is_refused_in_words(data, words):
    with pytest.raises(Unprocessable, match=f"The JPEG is broken: .*{words}"):
        read_header(data)


def passes(data):
    return read_header(data).passes


def test_an_ordinary_jpeg_is_decoded_in_one_pass():
    assert {passes(photograph(mode=mode)) for mode in ("L", "RGB", "CMYK")} == {1}


def test_the_scans_of_a_progressive_jpeg_are_counted():
    assert passes(photograph(mode="L", progressive=True)) == 6
    assert passes(photograph(progressive=True)) == 14, "libjpeg's ten scans, two of them of all three components"
    assert passes(jpegs.progressive(64, 64, 1)) == 1
    assert passes(jpegs.progressive(64, 64, 500)) == 500


def test_the_scans_of_a_sequential_jpeg_with_a_component_each_are_counted():
    assert passes(jpegs.sequential(64, 64, 3)) == 3
    assert passes(jpegs.sequential(64, 64, 300)) == 300


@pytest.mark.parametrize(
    "between",
    [
        (b"\xff" * 5,),
        (b"\xff\xd0",),
        (b"\xff\x00junk",),
        (jpegs.segment(0xFE, b"x\xff\xd9y"),),
        (jpegs.segment(0xE1, jpegs.EOI),),
        (jpegs.segment(0xDD, b"\0\0"),),
    ],
    ids=["fill bytes", "a restart", "junk", "an end in a comment", "an end in EXIF", "an interval"],
)
def test_nothing_between_scans_hides_them(between):
    data = jpegs.progressive(64, 64, 9, *between)
    assert passes(data) == 9
    assert with_torchvision(data).shape == (3, 64, 64)


def test_what_only_looks_like_a_scan_is_none():
    thumbnail = jpegs.segment(0xE1, b"Exif\0\0" + jpegs.scan(0, 63) * 20)
    assert passes(with_parts(photograph(progressive=True), thumbnail)) == 14
    assert passes(photograph(progressive=True) + jpegs.scan(0, 63) * 20) == 14, "after its end"


def test_a_scan_header_that_is_cut_off_is_no_reason_to_fall():
    data = jpegs.progressive(64, 64, 3)
    for end in range(len(data) - 20, len(data)):
        assert read_header(data[:end]).passes in (2, 3)


def test_pixels_after_a_height_of_nothing_are_refused_before_they_are_decoded():
    data = jpegs.SOI + jpegs.TABLES + jpegs.frame(0xC0, 8, 0) + jpegs.scan(0, 63) + struct.pack(">H", 0)
    assert read_header(data).height == 0


def with_restarts(between, scans):
    """Scans that libjpeg finds while it looks for a restart, behind a marker whose length covers them."""
    first, rest = jpegs.progressive(64, 64, scans).split(jpegs.scan(1, 63), 1)
    return first.replace(jpegs.SOI, jpegs.SOI + jpegs.segment(0xDD, b"\0\1"), 1) + between + jpegs.scan(1, 63) + rest


@pytest.mark.parametrize("marker", [0x02, 0xBF, 0xC5, 0xC8, 0xF0, 0xFD, 0xD8, 0xC0])
def test_no_marker_between_scans_hides_others_by_its_length(marker):
    with pytest.raises(Unprocessable, match=f"a marker FF{marker:02X} between its scans"):
        read_header(with_restarts(bytes([0xFF, marker]) + b"\xff\xfe", 300))
    assert passes(with_restarts(b"", 300)) == 300


def test_the_passes_of_arithmetic_coding_count_for_what_they_cost():
    def arithmetic(marker, components, scans):
        numbers = tuple(range(1, components + 1))
        last = 63 if marker == 0xC9 else 0
        return jpegs.SOI + jpegs.TABLES + jpegs.frame(marker, 64, 64, components) + jpegs.scan(0, last, numbers) * scans

    assert passes(arithmetic(0xC9, 3, 1)) == 3 * ARITHMETIC_PASSES
    assert passes(arithmetic(0xCA, 1, 5)) == 5 * ARITHMETIC_PASSES


def test_a_marker_is_found_wherever_a_search_begins_anew(monkeypatch):
    monkeypatch.setattr(jpeg, "_SLICE_BYTES", 7)
    for data in (photograph(), photograph(progressive=True)):
        found = list(jpeg.segments(data, 2))
        monkeypatch.undo()
        assert found == list(jpeg.segments(data, 2))
        monkeypatch.setattr(jpeg, "_SLICE_BYTES", 7)
