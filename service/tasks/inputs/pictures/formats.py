"""The formats that are read: a file for each, and a line here."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from service.errors import Unprocessable
from service.tasks.inputs.pictures import gif, jpeg, png, webp
from service.tasks.inputs.pictures.header import BrokenPictureError, Header


class Format(NamedTuple):
    """A format: what its files begin with, and the function that reads their header."""

    name: str
    signature: re.Pattern[bytes]
    read: Callable[[bytes], Header]


FORMATS = (
    Format("JPEG", re.compile(rb"\xff\xd8\xff"), jpeg.read),
    Format("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), png.read),
    Format("GIF", re.compile(rb"GIF8[79]a"), gif.read),
    Format("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL), webp.read),
)


def read_header(data: bytes) -> Header:
    """Read the header of a picture file, without decoding it.

    Raises:
        Unprocessable: the file is in none of these formats, or breaks the rules of its own.
    """
    for kind in FORMATS:
        if kind.signature.match(data):
            try:
                return kind.read(data)
            except BrokenPictureError as error:
                raise broken(kind.name, str(error)) from error
    raise Unprocessable("The bytes are not a picture in a supported format; send a JPEG, PNG, GIF or WebP file.")


def broken(name: str, why: str) -> Unprocessable:
    """Make the refusal of a file that has a format's signature and cannot be decoded."""
    return Unprocessable(f"The {name} is broken: {why}.")
