"""The two libraries that decode: torchvision, and Pillow for what torchvision cannot do or does not survive."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from service.host.vision import ImageReadMode, decode_image, transforms

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit only warns; `max_pixels` refuses

#: By EXIF orientation: whether rows and columns change places, and which of `(3, H, W)`'s axes are then reversed.
_TURNS: dict[int, tuple[bool, list[int]]] = {
    2: (False, [2]),
    3: (False, [1, 2]),
    4: (False, [1]),
    5: (True, []),
    6: (True, [2]),
    7: (True, [1, 2]),
    8: (True, [1]),
}


def with_torchvision(file: bytes) -> Tensor:
    """Decode a JPEG or a WebP of one frame to `(3, H, W) uint8`, RGB, as stored.

    Raises:
        RuntimeError: the file is broken.
    """
    encoded = torch.frombuffer(bytearray(file), dtype=torch.uint8)
    image: Tensor = decode_image(encoded, ImageReadMode.RGB.value, False)
    return image


def with_pillow(file: bytes) -> Tensor:
    """Decode the first frame of a PNG or GIF to `(3, H, W) uint8`, RGB, as stored.

    torchvision's PNG decoder does not survive libpng's errors: of 300 files with one bit flipped, 133 killed
    the process (torchvision 0.29). And it decodes every frame of a GIF, which a small file can make gigabytes.

    Raises:
        OSError, SyntaxError, ValueError, ...: the file is broken.
    """
    with Image.open(io.BytesIO(file), formats=("PNG", "GIF")) as picture:
        frame: Image.Image = picture
        if frame.mode.startswith("I"):  # sixteen bits of grey, of which `convert` would clip all but the lowest
            frame = Image.fromarray((np.asarray(frame) >> 8).astype(np.uint8))
        pixels: Tensor = transforms.pil_to_tensor(frame.convert("RGB"))
    return pixels


def upright(image: Tensor, orientation: int) -> Tensor:
    """Turn `(3, H, W)` as EXIF says (Exif 2.32, 4.6.4, tag Orientation); 5 to 8 give `(3, W, H)`."""
    if orientation not in _TURNS:
        return image
    transposed, reversed_axes = _TURNS[orientation]
    turned = image.transpose(1, 2) if transposed else image
    return turned.flip(reversed_axes) if reversed_axes else turned
