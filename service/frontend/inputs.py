"""From a body to the pictures in it: raw bytes, multipart or JSON."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator
from typing import Annotated

import msgspec
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import Malformed, TooLarge, Unprocessable, UnsupportedType

_Channel = Annotated[int, msgspec.Meta(ge=0, le=255)]
_SOME = msgspec.Meta(min_length=1)
#: `(H, W, 3)`. As triples, a picture of 20 MB is decoded in 0.13 s; as lists, whose garbage is collected, in 0.43 s.
Rows = Annotated[list[Annotated[list[tuple[_Channel, _Channel, _Channel]], _SOME]], _SOME]


class Encoded(msgspec.Struct, forbid_unknown_fields=True):
    """A picture file in base64, with or without a data URL's prefix."""

    b64: str


class Instances(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON body: pictures as files in base64, or as numbers `(H, W, 3)`, RGB, 0 to 255."""

    instances: list[Encoded | Rows]


_json = msgspec.json.Decoder(Instances)

Picture = bytes | Rows


async def read_pictures(headers: Headers, body: bytes, most: int) -> list[Picture]:
    """The pictures of a body, in order: file bytes, or nested numbers.

    Raises:
        UnsupportedType: the Content-Type is none of those served.
        Malformed: the body is not what its Content-Type says.
        TooLarge: more than `most` pictures.
        Unprocessable: JSON of another shape, or bad base64.
    """
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type.startswith("image/") or content_type == "application/octet-stream":
        return [body]
    if content_type == "multipart/form-data":
        pictures = await _from_multipart(headers, body, most)
    elif content_type == "application/json":
        pictures = await asyncio.to_thread(_from_json, body, most)  # a large one would stall the event loop
    else:
        raise UnsupportedType(
            f"Content-Type is {content_type[:80]!r}; send image/jpeg (curl -H 'Content-Type: image/jpeg'), "
            "another image type, multipart/form-data or application/json."
        )
    if not pictures:
        raise Unprocessable("There is no picture in the body.")
    return pictures


class _InMemory(MultiPartParser):
    """The body is in memory already and within its limit: no part of it goes to the disk."""

    spool_max_size = 1 << 62


async def _from_multipart(headers: Headers, body: bytes, most: int) -> list[Picture]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        # One file more than allowed is let in, so that too many can be told from a broken body.
        form = await _InMemory(headers, stream(), max_files=most + 1, max_fields=0).parse()
    except (MultiPartException, KeyError) as error:
        words = getattr(error, "message", "no boundary in the Content-Type")
        if words.startswith("Too many files"):
            raise TooLarge(f"More than {most} files; at most {most} are allowed in one request.") from error
        if words.startswith("Too many fields"):
            raise Malformed("A part is no file: give each a filename (curl -F file=@photo.jpg does).") from error
        raise Malformed(f"The multipart body is malformed: {words}.") from error
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if len(files) > most:
        raise TooLarge(f"{len(files)} files; at most {most} are allowed in one request.")
    return [await file.read() for file in files]


def _from_json(body: bytes, most: int) -> list[Picture]:
    _count_first(body, most)
    try:
        instances = _json.decode(body).instances
    except msgspec.ValidationError as error:
        raise Unprocessable(f"{error}; the body must be {_EXPECTED}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"The body is no JSON: {error}.") from error
    if len(instances) > most:
        raise TooLarge(f"{len(instances)} instances; at most {most} are allowed in one request.")
    pictures = [_file_bytes(item.b64, n) if isinstance(item, Encoded) else item for n, item in enumerate(instances)]
    _check_keys(body, sum(isinstance(item, Encoded) for item in instances))
    return pictures


def _count_first(body: bytes, most: int) -> None:
    """Refuse too many instances before they are built: a million, for which the decoder takes a second, in 20 ms.

    An instance is an object, or it begins with three brackets. Neither is in base64, so no string hides or adds one
    in a body that is otherwise right.
    """
    if len(body) < COUNTED_FIRST_BYTES:
        return
    dense = body.translate(None, b" \t\r\n")
    if b"[[[[[" in dense or b":{" in dense:
        raise Unprocessable(f"The JSON is nested too deep; the body must be {_EXPECTED}.")
    if dense.count(b"{") - 1 + dense.count(b"[[[") > most:
        raise TooLarge(f"More than {most} instances; at most {most} are allowed in one request.")


def _check_keys(body: bytes, encoded: int) -> None:
    """Refuse a key that comes twice, which the decoder overlooks: it shows in the number of quotes."""
    if body.count(b'"') != 2 + 4 * encoded:
        raise Malformed("A key comes twice in the JSON body.")


#: A smaller body cannot hold so many instances that it matters.
COUNTED_FIRST_BYTES = 65_536

_EXPECTED = '{"instances": [{"b64": "…"} or numbers (H, W, 3) from 0 to 255, …]}'


def _file_bytes(text: str, position: int) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unprocessable(f"Instance {position}: b64 is no base64: {error}.") from error
