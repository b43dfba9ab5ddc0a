"""Files and fields of a `multipart/form-data` body, which is in memory already: cut at its boundaries, each part whole.

Sources: RFC 2046, 5.1.1 (delimiters, preamble, epilogue); RFC 7578, 4 (parts of a form).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from python_multipart.multipart import parse_options_header

from service.errors import Malformed, Refusal, TooLarge, Unprocessable
from service.tasks.inputs.pictures.formats import FORMATS
from service.tasks.outputs.options import top_k_of, unknown_option

#: A part's headers may be this long; and a boundary may stand within lines this often, as it does in no real body.
MOST_HEADER_BYTES, MOST_ELSEWHERE = 16_384, 1_000
#: What a field holds when curl's @ is forgotten.
_FILE_NAME = re.compile(r"[\w./~ -]{1,200}\.(?:jpe?g|png|gif|webp)", re.IGNORECASE)


class Form(NamedTuple):
    """The content of every file, in order, and the field `top_k`, if there is one."""

    files: list[bytes]
    top_k: int | None = None


def form_of(content_type: str, body: bytes, most: int) -> Form:
    """Return what a form holds.

    Raises:
        Malformed: the Content-Type has no boundary, the body was cut off or does not use that boundary, or a part has
            neither name nor file name, or has lost the latter. A part that has begun must also end: fewer files than
            were sent are never returned.
        Unprocessable: there is a field that is not taken, or `top_k` is not one number.
        TooLarge: there are more than `most` files.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise Malformed("The Content-Type, multipart/form-data, has no boundary; HTTP libraries add one by themselves.")
    files: list[bytes] = []
    top_k = None
    for number, part in enumerate(_parts(body, boundary)):
        name, content = _read_part(part, number)
        if name is None:
            if len(files) == most:
                raise TooLarge(f"More than {most} files; at most {most} are allowed in one request.")
            files.append(content)
        elif top_k is not None:
            raise Unprocessable("top_k stands in the form twice; give it once.")
        else:
            top_k = top_k_of(content.decode("latin-1").strip())
    return Form(files, top_k)


def _parts(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """Yield each part, headers and content. What comes before the first and after the last is passed over.

    Raises:
        Malformed: there is no delimiter, none that ends the last part, or a part outside of them.
    """
    number, begin, elsewhere = 0, None, 0
    for delimiter in re.finditer(re.escape(b"--" + boundary) + rb"(?:(--)[ \t]*(?:\r\n|\Z)|[ \t]*\r\n)", body):
        start = delimiter.start()
        if start and body[start - 2 : start] != b"\r\n":
            elsewhere += 1
            if elsewhere > MOST_ELSEWHERE:
                raise Malformed("The boundary of the multipart body stands within its lines again and again.")
            continue
        if begin is None:
            _check_outside(body[:start], "before the first boundary")
        else:
            yield body[begin : max(begin, start - 2)]
            number += 1
        if delimiter[1]:
            _check_outside(body[delimiter.end() :], "after the last boundary")
            return
        begin = delimiter.end()
    if begin is None:
        raise Malformed("No line of the body begins with the boundary that the Content-Type names; lines end in CRLF.")
    raise Malformed(
        f"Part {number} of the multipart body (counting from 0) does not end: the body was cut off, or its last line "
        "is not the boundary between two pairs of dashes."
    )


def _check_outside(text: bytes, where: str) -> None:
    """Refuse a part that a damaged boundary has put where it would not be read.

    Raises:
        Malformed: there is one.
    """
    if b"content-disposition:" in text.lower():
        raise Malformed(f"The multipart body has a part {where}, where it would be lost.")


def _read_part(part: bytes, number: int) -> tuple[str | None, bytes]:
    """Return None and the content of a file, or the name and the content of a field that is taken.

    Raises:
        Malformed: its headers do not end, or it has neither name nor file name, or is a picture without a file name.
        Unprocessable: it is another field.
    """
    end = part.find(b"\r\n\r\n", 0, MOST_HEADER_BYTES)
    if end < 0:
        words = f"has no blank line after its headers, within {MOST_HEADER_BYTES:,} bytes"
        raise Malformed(f"Part {number} of the multipart body (counting from 0) {words}.")
    headers, content = part[:end], part[end + 4 :]
    _check_outside(content, f"within part {number} (counting from 0)")
    field = b""
    for line in headers.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            options = parse_options_header(value.strip())[1]
            if b"filename" in options:
                return None, content
            field = options.get(b"name", b"")
    if field == b"top_k":
        return "top_k", content
    raise _not_taken(field.decode("utf-8", "replace"), content, number)


def _not_taken(field: str, content: bytes, number: int) -> Refusal:
    """Make the refusal of a part that is neither a file nor `top_k`."""
    if not field or any(kind.signature.match(content) for kind in FORMATS):
        return Malformed(
            f"Part {number} of the multipart body (counting from 0) has no file name; give each picture one, as "
            "curl -F file=@photo.jpg does."
        )
    text = content.decode("utf-8", "replace")
    if _FILE_NAME.fullmatch(text):
        return Unprocessable(f"{field[:40]!r} holds the name of a file, not the file; curl -F file=@{text} sends it.")
    return unknown_option("form field", field, text)
