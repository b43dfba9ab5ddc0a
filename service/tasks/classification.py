"""Classification of pictures: bytes to tensors in the front end, logits to classes in the engine."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from service.errors import TooLarge, Unprocessable
from service.loader.card import InputSpec
from service.vision import ImageReadMode, InterpolationMode, decode_image, transforms

#: The formats that are decoded, after PIL has read the header: by torchvision, or by PIL.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
_BY_PIL = ("PNG", "GIF")


class Effort(NamedTuple):
    """How much a picture may be, in its file and, before and after resizing, in pixels."""

    file_bytes: int
    pixels: int


#: Such a picture is ready before another thread could be handed it.
QUICK = Effort(65_536, 40_000)
#: Such a one takes about two milliseconds: no time to keep others waiting, but shorter where nobody else waits.
MODERATE = Effort(524_288, 500_000)

_SIZE = struct.Struct(">HH")

Image.MAX_IMAGE_PIXELS = None  # PIL's own limit only warns; `max_pixels` refuses


class ImageDecoder:
    """Makes a model's input of a picture, as the training transform did.

    Calls are independent and take no lock: any thread of a pool may make them.
    """

    def __init__(self, spec: InputSpec, max_pixels: int) -> None:
        self._spec = spec
        self._interpolation = InterpolationMode(spec.interpolation)
        self._max_pixels = max_pixels

    def decode(self, data: bytes) -> Tensor:
        """`(3, crop, crop) uint8`, RGB, of a JPEG, PNG, GIF or WebP file.

        Raises:
            TooLarge: more pixels than allowed, seen in the header before anything is decoded.
            Unprocessable: not a picture, or a broken one.
        """
        kind, _ = self._check_header(data)
        return self._decode(data, kind)

    def decode_within(self, effort: Effort, data: bytes) -> Tensor | None:
        """What `decode` gives, or None for a picture that takes more: it is better decoded in another thread.

        Handing one over costs about 0.3 ms, most of it for the interpreter's lock.
        """
        if len(data) > effort.file_bytes:
            return None
        kind, pixels = self._check_header(data)
        return self._decode(data, kind) if pixels <= effort.pixels else None

    def _decode(self, data: bytes, kind: str) -> Tensor:
        try:
            image = _first_frame(data) if kind in _BY_PIL else _decode(data)
        except Exception as error:  # hostile bytes: whatever a decoder raises is the picture's fault
            raise Unprocessable(f"The picture is broken: {_first_line(error)}") from error
        if image.dtype != torch.uint8:
            image = transforms.to_dtype(image, torch.uint8, scale=True)
        return self.fit(image)

    def from_pixels(self, rows: Sequence[Sequence[Sequence[int]]]) -> Tensor:
        """`(3, crop, crop) uint8` of nested numbers `(H, W, 3)`, each 0 to 255, RGB.

        Raises:
            TooLarge: more pixels than allowed.
            Unprocessable: rows of different lengths, or not three numbers a pixel.
        """
        height, width = len(rows), len(rows[0]) if rows else 0
        self._check_size(width, height)
        try:
            pixels = torch.tensor(rows, dtype=torch.uint8)
        except ValueError as error:
            raise Unprocessable("The rows or pixels of an instance differ in length; it must be (H, W, 3).") from error
        if pixels.dim() != 3 or pixels.shape[2] != 3:
            shape = tuple(pixels.shape)
            raise Unprocessable(f"An instance of nested numbers must be (H, W, 3), RGB; this one is {shape}.")
        return self.fit(pixels.permute(2, 0, 1))

    def fit(self, image: Tensor) -> Tensor:
        """Shorter side to `resize`, then the centre `crop`: `(3, H, W)` to `(3, crop, crop)`, uint8."""
        spec = self._spec
        # What `resize` comes to for a tensor: finding that out, and cropping likewise, takes longer than doing it.
        resized: Tensor = transforms.resize_image(
            image, [spec.resize], interpolation=self._interpolation, antialias=True
        )
        top, left = (round((side - spec.crop) / 2) for side in resized.shape[-2:])
        return resized.narrow(1, top, spec.crop).narrow(2, left, spec.crop).contiguous()

    def _check_header(self, data: bytes) -> tuple[str, int]:
        """The format, and the most pixels it has, before or after resizing; nothing is decoded yet."""
        if size := jpeg_size(data):
            return "JPEG", self._check_size(*size)
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                kind, (width, height) = str(picture.format), picture.size
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise Unprocessable("Not a picture: the bytes are no JPEG, PNG, GIF or WebP file.") from error
        return kind, self._check_size(width, height)

    def _check_size(self, width: int, height: int) -> int:
        if width * height > self._max_pixels:
            raise TooLarge(f"The picture is {width} x {height}; at most {self._max_pixels:,} pixels are allowed.")
        if width * height == 0:
            raise Unprocessable("The picture has no pixels.")
        longer = max(width, height) * self._spec.resize // min(width, height)
        if longer * self._spec.resize > self._max_pixels:
            raise Unprocessable(
                f"The picture is {width} x {height}: with its shorter side at {self._spec.resize} pixels, as the model "
                f"needs it, it would have more than the {self._max_pixels:,} pixels allowed."
            )
        return max(width * height, longer * self._spec.resize)


#: Markers of a frame header, SOF0 to SOF15 without DHT, JPG and DAC; and those that end or interrupt the headers.
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NO_SEGMENT = frozenset([0x01, *range(0xD0, 0xDB), 0xFF])


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG, from its first frame header, which is the one that libjpeg goes by.

    None for what is no JPEG, or one that is odd in any way: then PIL shall look. It takes five times as long (15 µs).
    Source: ISO 10918-1, B.1.1.3 and B.2.2.
    """
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF and (marker := data[at + 1]) not in _NO_SEGMENT:
        if marker in _FRAME_HEADERS:
            height, width = _SIZE.unpack_from(data, at + 5)
            return (width, height) if width and height else None
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def _decode(data: bytes) -> Tensor:
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    image: Tensor = decode_image(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    return image


def _first_frame(data: bytes) -> Tensor:
    """The first frame of a PNG or GIF, upright, in eight bits.

    torchvision's PNG decoder does not survive libpng's errors: of 300 files with one bit flipped, 133 killed
    the process (torchvision 0.29). And it decodes every frame of a GIF, which a small file can make gigabytes.
    """
    with Image.open(io.BytesIO(data), formats=_BY_PIL) as picture:
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I"):  # sixteen bits of grey, of which `convert` would clip all but the lowest
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        frame: Tensor = transforms.pil_to_tensor(upright.convert("RGB"))
    return frame


def normalise(
    pixels: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype, memory_format: torch.memory_format
) -> Tensor:
    """What a model sees: `(N, 3, H, W)` of `dtype`, of `uint8` pixels of that shape.

    `mean` and `std` are of those pixels, `(1, 3, 1, 1) float32`.
    """
    images = pixels.to(torch.float32, memory_format=memory_format)
    return images.sub_(mean).div_(std).to(dtype)


def best_classes(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Softmax and top-k of a whole batch on its device, brought back in one go.

    Args:
        logits: `(N, classes)`, any floating dtype.
        k: how many classes; more than there are gives all.

    Returns:
        `(N, k) float32` probabilities, falling, and `(N, k) int32` class ids, both on the CPU.
    """
    probabilities = torch.softmax(logits, dim=1, dtype=torch.float32)
    top = torch.topk(probabilities, min(k, logits.shape[1]), dim=1)
    values, ids = top.values, top.indices.to(torch.int32)
    # Of what is there already, `cpu()` would be two operators more, 20 µs each once a forward has swept the caches.
    return (values, ids) if logits.is_cpu else (values.cpu(), ids.cpu())


def _first_line(error: Exception) -> str:
    """What torchvision says, without the place in its source that it puts before it."""
    words = re.sub(r"^.*?\.cpp:\d+, ", "", str(error)).splitlines()
    return words[0][:200] if words else type(error).__name__
