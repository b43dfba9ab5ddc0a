"""Pictures: bytes to tensors, decoded, resized and cropped as the training transform did."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from service.errors import TooLarge, Unprocessable
from service.host.vision import InterpolationMode, transforms
from service.tasks.inputs.pictures.decoders import upright
from service.tasks.inputs.pictures.formats import broken, read_header
from service.tasks.inputs.pictures.header import Header
from service.tasks.inputs.spec import InputSpec

Pixels = npt.NDArray[np.uint8]


class Effort(NamedTuple):
    """Limits of a picture: bytes of its file, and pixels before and after resizing."""

    file_bytes: int
    pixels: int


#: A picture within this is decoded before another thread could even receive it.
QUICK = Effort(65_536, 40_000)
#: A picture within this takes about two milliseconds: worth a thread if others wait, quicker without one if not.
MODERATE = Effort(524_288, 500_000)
#: The scans of a JPEG of `max_pixels` may go over its pixels this many times, once for each component in each scan.
#: Encoders write progressive files of 10 to 16. An empty scan costs 0.03 to 1.1 ns a pixel, so the worst file takes
#: about as long as a large photograph.
MOST_PASSES = 32
#: A PNG may have this many bytes a pixel at `max_pixels`: undoing its filters costs up to 10 ns a byte.
MOST_PIXEL_BYTES = 4
#: Numbers become a tensor in steps of this many pixels, 2 ms each, since each holds the interpreter lock.
PIXELS_AT_ONCE = 20_000
#: Going over a pixel in one scan costs this part of decoding it, at most.
PASSES_A_PIXEL = 8


class ImageDecoder:
    """Makes a model's input of a picture, as the training transform did.

    Calls are independent and take no lock: any thread of a pool may make them.
    """

    def __init__(self, spec: InputSpec, max_pixels: int) -> None:
        self._spec = spec
        self._size = [spec.resize] if isinstance(spec.resize, int) else list(spec.resize)
        self._is_grey = len(spec.mean) == 1
        self._interpolation = InterpolationMode(spec.interpolation)
        self._max_pixels = max_pixels

    def decode(self, data: bytes) -> Pixels:
        """`(C, H, W) uint8`, RGB or grey as the model is, of a JPEG, PNG, GIF or WebP file.

        Raises:
            TooLarge: more pixels, or more work, than allowed, seen in the header before anything is decoded.
            Unprocessable: not a picture, or a broken one.
        """
        header = read_header(data)
        self._check(header)
        return self._decode(header)

    def decode_within(self, effort: Effort, data: bytes) -> Pixels | None:
        """Return what `decode` does, or None for a picture beyond `effort`, which another thread should decode.

        Handing a picture over costs about 0.3 ms, mostly for the interpreter lock.
        """
        if len(data) > effort.file_bytes:
            return None
        header = read_header(data)
        return self._decode(header) if self._check(header) <= effort.pixels else None

    def _decode(self, header: Header) -> Pixels:
        try:
            image = header.decode(header.file)
        except Exception as error:  # hostile bytes: whatever a decoder raises is the picture's fault
            raise broken(header.format, _first_line(error)) from error
        if image.shape[1:] != (header.height, header.width):
            raise broken(header.format, "its header and its pixels differ in size")
        return self.fit(upright(image, header.orientation))

    def from_pixels(self, rows: Sequence[Sequence[Sequence[float]]]) -> Pixels:
        """Make `(C, H, W) uint8` of nested numbers `(H, W, 3)`, each 0 to 255, RGB: all `int`, or all `float`.

        Raises:
            TooLarge: more pixels than allowed.
            Unprocessable: rows of different lengths, not three numbers a pixel, or a number that is not whole.
        """
        height, width = len(rows), len(rows[0]) if rows else 0
        self._check_size(width, height)
        floats = len(rows[0][0]) > 0 and isinstance(rows[0][0][0], float)
        dtype = torch.float32 if floats else torch.uint8
        step = max(1, PIXELS_AT_ONCE // width)
        try:
            pixels = torch.cat([torch.tensor(rows[at : at + step], dtype=dtype) for at in range(0, height, step)])
        except (ValueError, RuntimeError) as error:
            raise Unprocessable("The rows or pixels of an instance differ in length; it must be (H, W, 3).") from error
        if pixels.dim() != 3 or pixels.shape[2] != 3:
            shape = tuple(pixels.shape)
            raise Unprocessable(f"An instance of nested numbers must be (H, W, 3), RGB; this one is {shape}.")
        return self.fit((_whole(pixels) if floats else pixels).permute(2, 0, 1))

    def fit(self, image: Tensor) -> Pixels:
        """Resize and crop `(3, H, W)` as the card says, and take the luma for a grey model; all uint8."""
        # `resize` and `crop` of torchvision would end up here, after dispatch that takes longer than the work.
        fitted: Tensor = transforms.resize_image(image, self._size, interpolation=self._interpolation, antialias=True)
        pixels: Pixels = fitted.numpy()  # to crop an array takes 3 µs, a tensor 6
        if crop := self._spec.crop:
            _, height, width = pixels.shape
            top, left = round((height - crop) / 2), round((width - crop) / 2)
            pixels = pixels[:, top : top + crop, left : left + crop]
        return luma(torch.from_numpy(pixels)).numpy() if self._is_grey else np.ascontiguousarray(pixels)

    def _check(self, header: Header) -> int:
        """Return the cost of decoding and resizing, in pixels decoded once.

        Raises:
            TooLarge: there are more pixels than allowed, or scans go over them too often.
            Unprocessable: there are no pixels.
        """
        pixels = self._check_size(header.width, header.height)
        unpacked = header.width * header.height * header.pixel_bytes
        if unpacked > MOST_PIXEL_BYTES * self._max_pixels:
            raise TooLarge(
                f"The {header.format} is {header.width} x {header.height} with {header.pixel_bytes} bytes a pixel; "
                f"{MOST_PIXEL_BYTES * self._max_pixels:,} bytes are allowed. Save it with eight bits a colour."
            )
        pixels += len(header.file) * header.byte_cost
        if header.passes == 1:
            return pixels
        stored = _padded(header.width) * _padded(header.height)
        most = MOST_PASSES * self._max_pixels // stored
        if header.passes > most:
            raise TooLarge(
                f"The JPEG is {header.width} x {header.height}, and its scans go over the pixels {header.passes:,} "
                f"times; {most:,} times are allowed at this size. Save it with fewer scans, or as a baseline JPEG."
            )
        return pixels + header.passes * stored // PASSES_A_PIXEL

    def _check_size(self, width: int, height: int) -> int:
        if width * height > self._max_pixels:
            raise TooLarge(f"The picture is {width} x {height}; at most {self._max_pixels:,} pixels are allowed.")
        if width * height == 0:
            raise Unprocessable("The picture has no pixels.")
        wanted, resized = self._resized(width, height)
        if resized > self._max_pixels:
            raise Unprocessable(
                f"The picture is {width} x {height}: {wanted}, as the model needs it, it would have more than the "
                f"{self._max_pixels:,} pixels allowed."
            )
        return max(width * height, resized)

    def _resized(self, width: int, height: int) -> tuple[str, int]:
        """Say what resizing does, and how many pixels a picture then has, or has once its rows are resized."""
        resize = self._spec.resize
        if isinstance(resize, int):
            longer = max(width, height) * resize // min(width, height)
            return f"with its shorter side at {resize} pixels", longer * resize
        return f"stretched to {resize[1]} x {resize[0]}", max(height, resize[0]) * resize[1]


def _whole(numbers: Tensor) -> Tensor:
    """Return numbers from 0 to 255 as uint8.

    Raises:
        Unprocessable: one of them has a fraction.
    """
    whole = numbers.to(torch.uint8)
    if (fractions := numbers != whole).any():
        number = numbers[fractions][0].item()
        raise Unprocessable(f"A pixel has the value {number:g}; values must be whole numbers from 0 to 255.")
    return whole


def _padded(side: int) -> int:
    """A side of a JPEG in whole units of the largest sampling factors: 32 pixels."""
    return -(-side // 32) * 32


def luma(image: Tensor) -> Tensor:
    """Make `(1, H, W) uint8` of `(3, H, W) uint8`, RGB, as torchvision's `Grayscale` and Pillow's `L` do of a picture.

    In whole numbers, so that grey stays what it is. `Grayscale` of a tensor cuts fractions off instead, which takes one
    from nearly every grey value. Source: ITU-R BT.601, 2.5.1; `L24` in Pillow's Convert.c.
    """
    red, green, blue = image.to(torch.int32)
    weighted: Tensor = red.mul_(19595).add_(green, alpha=38470).add_(blue, alpha=7471).add_(0x8000)
    return weighted.bitwise_right_shift_(16).to(torch.uint8).unsqueeze(0)


def _first_line(error: Exception) -> str:
    """Return torchvision's message without the source location at its beginning."""
    words = re.sub(r"^.*?\.cpp:\d+, ", "", str(error)).splitlines()
    return words[0][:200].rstrip(".") if words else type(error).__name__
