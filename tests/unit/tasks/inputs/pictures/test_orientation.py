"""Orientation: in every format, in every place where it may stand, as Pillow applies it."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from service.tasks.inputs.pictures.decoders import upright
from service.tasks.inputs.pictures.formats import read_header
from service.tasks.inputs.pictures.header import orientation
from tests.support import jpegs
from tests.support.models import flower

SHORT, LONG, BYTE = 3, 4, 1


def tiff(value, kind=SHORT, order="<", before=(), count=1):
    """A TIFF with the orientation among other tags."""
    entries = [(0x010F, SHORT, 1, struct.pack(f"{order}HH", 7, 0)), *before]
    number = {SHORT: "HH", LONG: "I", BYTE: "Bxxx"}[kind]
    values = (value, 0) if kind == SHORT else (value,)
    entries.append((0x0112, kind, count, struct.pack(f"{order}{number}", *values)))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return head + b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries) + bytes(4)


def xmp(value, form='tiff:Orientation="{}"'):
    return f"<x:xmpmeta><rdf:Description {form.format(value)}/></x:xmpmeta>".encode()


def encoded(kind, **how):
    file = io.BytesIO()
    with Image.open(io.BytesIO(flower())) as whole:
        whole.resize((40, 30)).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}) | how)
    return file.getvalue()


EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


def jpeg(*app1):
    found = jpegs.segments_of(encoded("JPEG"))
    return jpegs.SOI + b"".join([*(jpegs.segment(0xE1, content) for content in app1), *found])


def png(*chunks, after=()):
    data = encoded("PNG")

    def packed(kind, content):
        return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))

    first, last = b"".join(packed(*chunk) for chunk in chunks), b"".join(packed(*chunk) for chunk in after)
    return data[:33] + first + data[33:-12] + last + data[-12:]


def webp(exif=b"", packet=b""):
    return encoded("WEBP", **({"exif": exif} if exif else {}), **({"xmp": packet} if packet else {}))


def raw_profile(exif):
    """As ImageMagick wrote EXIF before PNG had a chunk for it."""
    content = EXIF + exif
    digits = content.hex()
    lines = [digits[at : at + 72] for at in range(0, len(digits), 72)]
    return f"\nexif\n{len(content):8d}\n".encode() + "\n".join(lines).encode() + b"\n"


def itxt(packet, packed=False):
    return b"XML:com.adobe.xmp\0" + bytes([packed, 0]) + b"\0\0" + (zlib.compress(packet) if packed else packet)


PLACES = {
    "JPEG": lambda o: jpeg(EXIF + tiff(o)),
    "JPEG, big-endian": lambda o: jpeg(EXIF + tiff(o, order=">")),
    "JPEG, LONG": lambda o: jpeg(EXIF + tiff(o, LONG)),
    "JPEG, after XMP": lambda o: jpeg(XMP + xmp(9), EXIF + tiff(o)),
    "JPEG, after another APP1": lambda o: jpeg(b"something else", EXIF + tiff(o)),
    "JPEG, before XMP that differs": lambda o: jpeg(EXIF + tiff(o), XMP + xmp(9 - o)),
    "JPEG, EXIF in two segments": lambda o: jpeg(EXIF, EXIF + tiff(o)),
    "JPEG, after the frame header": lambda o: (
        lambda found: jpegs.SOI + b"".join([*found[:-1], jpegs.segment(0xE1, EXIF + tiff(o)), found[-1]])
    )(jpegs.segments_of(encoded("JPEG"))),
    "JPEG, in XMP": lambda o: jpeg(XMP + xmp(o)),
    "JPEG, in XMP as an element": lambda o: jpeg(XMP + xmp(o, "><tiff:Orientation>{}</tiff:Orientation")),
    "JPEG, in XMP, EXIF without one": lambda o: jpeg(EXIF + tiff(o).replace(b"\x12\x01", b"\x13\x01"), XMP + xmp(o)),
    "PNG": lambda o: png((b"eXIf", tiff(o))),
    "PNG, big-endian": lambda o: png((b"eXIf", tiff(o, order=">"))),
    "PNG, after the pixels": lambda o: png(after=[(b"eXIf", tiff(o))]),
    "PNG, in XMP": lambda o: png((b"iTXt", itxt(xmp(o)))),
    "PNG, in packed XMP": lambda o: png((b"iTXt", itxt(xmp(o), packed=True))),
    "PNG, raw profile": lambda o: png((b"tEXt", b"Raw profile type exif\0" + raw_profile(tiff(o)))),
    "PNG, packed raw profile": lambda o: png(
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(tiff(o))))
    ),
    "PNG, raw profile as international text": lambda o: png(
        (b"iTXt", b"Raw profile type exif\0\0\0\0\0" + raw_profile(tiff(o)))
    ),
    "PNG, XMP as plain text": lambda o: png((b"tEXt", b"XML:com.adobe.xmp\0" + xmp(o))),
    "JPEG, a wrong byte order mark": lambda o: jpeg(EXIF + tiff(o).replace(b"II*\0", b"II\0*")),
    "PNG, beside other text": lambda o: png((b"tEXt", b"Title\0flower"), (b"eXIf", tiff(o)), (b"zTXt", b"c\0\0x")),
    "WebP": lambda o: webp(tiff(o)),
    "WebP, with a prefix": lambda o: webp(EXIF + tiff(o)),
    "WebP, big-endian": lambda o: webp(tiff(o, order=">")),
    "WebP, in XMP": lambda o: webp(packet=xmp(o)),
    "WebP, before XMP that differs": lambda o: webp(tiff(o), xmp(9 - o)),
}


def as_pillow_sees_it(data):
    with Image.open(io.BytesIO(data)) as file:
        pixels = np.array(ImageOps.exif_transpose(file).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize("place", PLACES)
def test_a_picture_is_turned_as_pillow_turns_it_wherever_its_orientation_stands(place):
    for stated in range(1, 9):
        data = PLACES[place](stated)
        header = read_header(data)
        if "pixels" not in place and "packed raw" not in place:
            assert header.orientation == stated
        assert torch.equal(upright(header.decode(header.file), header.orientation), as_pillow_sees_it(data))


IN_FORMAT = {"JPEG": lambda exif: jpeg(EXIF + exif), "PNG": lambda exif: png((b"eXIf", exif)), "WebP": webp}


@pytest.mark.filterwarnings("ignore:Metadata Warning")
@pytest.mark.parametrize("kind", IN_FORMAT)
@pytest.mark.parametrize(
    "exif",
    [
        tiff(0),
        tiff(9),
        tiff(255),
        tiff(6, BYTE),
        tiff(6, count=2),
        tiff(3, before=[(0x112, SHORT, 1, b"\6\0\0\0")]),
    ],
    ids=["0", "9", "255", "BYTE", "two values", "two tags"],
)
def test_an_orientation_out_of_the_ordinary_is_treated_alike_in_every_format(kind, exif):
    data = IN_FORMAT[kind](exif)
    header = read_header(data)
    assert torch.equal(upright(header.decode(header.file), header.orientation), as_pillow_sees_it(data))


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"no TIFF",
        tiff(6)[:-10],
        b"II*\0" + struct.pack("<I", 8) + b"\xff\xff" + bytes(60_000),
    ],
)
def test_broken_exif_is_no_orientation(exif):
    assert orientation(exif) == 1
    assert orientation(exif, xmp(6)) == 6
