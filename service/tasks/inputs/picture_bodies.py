"""From a body to the pictures in it: raw bytes, multipart or JSON."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from service.errors import TooLarge, Unprocessable, UnsupportedType
from service.signature import Signature, TensorSpec
from service.tasks.inputs.input import Arrays, Given, Tensor
from service.tasks.inputs.json_bodies import check_keys, decoded, without_mark
from service.tasks.inputs.multipart import form_of
from service.tasks.inputs.picture import MODERATE, QUICK, ImageDecoder
from service.tasks.inputs.spec import InputSpec
from service.tasks.outputs.options import DEFAULT_TOP_K, MAX_TOP_K

_Channel = Annotated[int, msgspec.Meta(ge=0, le=255)]
_SOME = msgspec.Meta(min_length=1)
#: `(H, W, 3)`. As triples, a picture of 20 MB is decoded in 0.13 s; as lists, whose garbage is collected, in 0.43 s.
Rows = Annotated[list[Annotated[list[tuple[_Channel, _Channel, _Channel]], _SOME]], _SOME]


class Encoded(msgspec.Struct, forbid_unknown_fields=True):
    """A picture file in base64, with or without a data URL's prefix."""

    b64: Annotated[str, msgspec.Meta(extra_json_schema={"format": "byte"})]


_TopK = (
    Annotated[int, msgspec.Meta(ge=1, le=MAX_TOP_K, extra_json_schema={"default": DEFAULT_TOP_K})] | msgspec.UnsetType
)
#: For the schema alone: that there is a picture is looked at later, and said in other words.
_AT_LEAST_ONE = msgspec.Meta(extra_json_schema={"minItems": 1})


class Instances(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON body: pictures as files in base64, or as numbers `(H, W, 3)`, RGB, 0 to 255; and how many classes."""

    instances: Annotated[list[Encoded | Rows], _AT_LEAST_ONE]
    top_k: _TopK = msgspec.UNSET


_Whole = Annotated[float, msgspec.Meta(ge=0, le=255)]
#: The same in JSON of clients that write every number with a point, `10.0`; that it is whole is seen later.
FloatRows = Annotated[list[Annotated[list[tuple[_Whole, _Whole, _Whole]], _SOME]], _SOME]


class FloatInstances(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON body with points in its numbers."""

    instances: list[Encoded | FloatRows]
    top_k: _TopK = msgspec.UNSET


_json = msgspec.json.Decoder(Instances)
_json_of_floats = msgspec.json.Decoder(FloatInstances)

Picture = bytes | Rows | FloatRows


_BINARY = {"type": "string", "format": "binary"}
_PIXELS = {"instances": [[[[250, 200, 0], [250, 200, 0]], [[20, 90, 20], [20, 90, 20]]]]}
#: A complete 1 x 1 PNG.
_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
TOP_K = {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": DEFAULT_TOP_K}
_FILES = {
    "type": "object",
    "properties": {"file": {"type": "array", "items": _BINARY}, "top_k": TOP_K},
    "required": ["file"],
}
#: Bodies of pictures, for the schema.
BODIES: dict[str, Any] = {
    "image/*": {"schema": _BINARY},
    "application/octet-stream": {"schema": _BINARY},
    "multipart/form-data": {"schema": _FILES},
    "application/json": {
        "schema": {"$ref": "#/components/schemas/Instances"},
        "examples": {
            "pixels": {"summary": "numbers (H, W, 3), RGB, 0 to 255", "value": _PIXELS},
            "base64": {"summary": "a picture file in base64", "value": {"instances": [{"b64": _PNG}]}},
        },
    },
}


class PictureInput:
    """Reads bodies of pictures for one model.

    Args:
        about: the card's `[input]`, resolved.
        signature: the model's.
        max_pixels: the most pixels of a picture.
    """

    def __init__(self, about: dict[str, Any], signature: Signature, max_pixels: int) -> None:
        self._decoder = ImageDecoder(InputSpec(**about), max_pixels)
        self.example_bytes = signature.example_bytes
        self._inputs = signature.inputs

    def read(self, content_type: str, body: bytes, most: int) -> Given:
        """Return a body's pictures, in order, as file bytes or nested numbers; and its `top_k`, if it has one."""
        kind = content_type.partition(";")[0].strip().lower()
        if kind.startswith("image/") or kind == "application/octet-stream":
            return Given(1, [body], {})
        if kind == "multipart/form-data":
            form = form_of(content_type, body, most)
            given: Sequence[Picture] = form.files
            top_k = form.top_k
        elif kind == "application/json":
            given, top_k = _from_json(body, most)
        else:
            raise UnsupportedType(
                f"Content-Type is {kind[:80]!r}; send image/jpeg (curl -H 'Content-Type: image/jpeg'), "
                "another image type, multipart/form-data or application/json."
            )
        if not given:
            raise Unprocessable("There is no picture in the body.")
        return Given(len(given), given, {} if top_k is None else {"top_k": top_k})

    def documented(self) -> dict[str, Any]:
        return BODIES

    def takes(self) -> Sequence[TensorSpec]:
        """Return files, one an example, or decoded pictures as the model's input has them."""
        (decoded,) = self._inputs
        return [TensorSpec(decoded.name, "bytes", (1,)), TensorSpec(decoded.name, "bytes"), decoded]

    def accept(self, named: Mapping[str, Tensor], most: int) -> Given:
        pictures: Any = named[self._inputs[0].name]
        if len(pictures) > most:
            raise TooLarge(f"{len(pictures)} instances; at most {most} are allowed in one request.")
        if not len(pictures):
            raise Unprocessable("There is no picture in the body.")
        if isinstance(pictures, np.ndarray):
            return Given(len(pictures), [pictures], {})
        files = [file if isinstance(file, bytes) else _file_bytes(file, n) for n, file in enumerate(pictures)]
        return Given(len(files), files, {})

    def at_once(self, given: Given, is_alone: bool) -> Arrays | None:
        picture = given.items[0]
        if isinstance(picture, np.ndarray):
            return (picture,)
        if given.count > 1 or not isinstance(picture, bytes):
            return None
        decoded = self._decoder.decode_within(MODERATE if is_alone else QUICK, picture)
        return None if decoded is None else (decoded[None],)

    def decode(self, item: Picture) -> Sequence[npt.NDArray[np.uint8]]:
        return [self._decoder.decode(item) if isinstance(item, bytes) else self._decoder.from_pixels(item)]


def _from_json(body: bytes, most: int) -> tuple[Sequence[Picture], int | None]:
    body = without_mark(body)
    _count_first(body, most)
    found = decoded(_decode, body, lambda words: f"{words}; the body must be {_EXPECTED}.")
    instances, top_k = found.instances, None if found.top_k is msgspec.UNSET else found.top_k
    if len(instances) > most:
        raise TooLarge(f"{len(instances)} instances; at most {most} are allowed in one request.")
    pictures = [_file_bytes(item.b64, n) if isinstance(item, Encoded) else item for n, item in enumerate(instances)]
    check_keys(body, 1 + (top_k is not None) + 2 * sum(isinstance(item, Encoded) for item in instances))
    return pictures, top_k


def _decode(body: bytes) -> Instances | FloatInstances:
    try:
        return _json.decode(body)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
        return _json_of_floats.decode(body)


def _count_first(body: bytes, most: int) -> None:
    """Refuse too many instances before they are built: a million, for which the decoder takes a second, in 20 ms.

    An instance is an object, or it begins with three brackets. Neither is in base64, so no string hides or adds one
    in a body that is otherwise right.
    """
    if len(body) < LARGE_BYTES:
        return
    dense = body.translate(None, b" \t\r\n")
    if b"[[[[[" in dense or b":{" in dense:
        raise Unprocessable(f"The JSON is nested too deep; the body must be {_EXPECTED}.")
    if dense.count(b"{") - 1 + dense.count(b"[[[") > most:
        raise TooLarge(f"More than {most} instances; at most {most} are allowed in one request.")


#: A smaller body cannot hold many instances.
LARGE_BYTES = 65_536

_EXPECTED = '{"instances": [{"b64": "…"} or numbers (H, W, 3) from 0 to 255, …]}, and may hold "top_k": 5'


def _file_bytes(text: str, position: int) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        encoded = text.encode("ascii").translate(None, b" \t\r\n")  # MIME wraps lines at 76 characters
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unprocessable(f"Instance {position}: b64 is not base64: {error}.") from error
