"""Real photographs for the bench, as people send them: JPEGs of about twice the size that the model sees."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.errors import ConfigurationError
from service.tasks.inputs.spec import InputSpec

#: Photographs that come inside packages of the `bench` extra.
_PHOTOGRAPHS = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": ("data/astronaut.png", "data/chelsea.png", "data/coffee.png", "data/rocket.jpg"),
}
#: Longer side in crops of 224: thumbnails, what the web shows, and what a small screen fills.
_SIDES = (320 / 224, 500 / 224, 800 / 224)
#: More than any of them has.
_MOST_PIXELS = 10_000_000
_COMMENT, _MOST_COMMENT_BYTES = b"\xff\xfe", 65_533


def bench_pictures(crop: int = 224, body_bytes: int = 0) -> list[bytes]:
    """The photographs as JPEG files in several sizes; for a model that sees 224 pixels, 15 to 130 KB a file.

    With `body_bytes` each file is padded to that size with comments, which decoders skip (JPEG, ISO 10918-1, B.2.4.5),
    to measure how bytes are carried and not how they are decoded.

    Raises:
        ConfigurationError: the packages that carry them are not installed.
    """
    pictures = []
    for package, names in _PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ConfigurationError([f"bench: {package} is not installed; install gradless[bench]"])
        there = [path for name in names if (path := Path(spec.origin).parent / name).exists()]
        pictures += [_jpeg(path, round(side * crop)) for path in there for side in _SIDES]
    return [_filled(picture, body_bytes) for picture in pictures]


def decoded_photographs(spec: InputSpec, most: int) -> npt.NDArray[np.uint8]:
    """Return `(N, C, H, W) uint8`, decoded as the server does; N is at most `most`.

    Raises:
        ConfigurationError: as `bench_pictures`.
    """
    from service.tasks.inputs.picture import ImageDecoder  # the load generator, which needs the files, has no torch

    decoder = ImageDecoder(spec, _MOST_PIXELS)
    return np.stack([decoder.decode(file) for file in bench_pictures(spec.side)[:most]])


def _filled(jpeg: bytes, size: int) -> bytes:
    """Return the picture padded to `size` bytes with comments after its first marker, or unchanged if it is larger."""
    comments = b""
    while (missing := size - len(jpeg) - len(comments)) > 4:
        length = min(missing - 4, _MOST_COMMENT_BYTES)
        comments += _COMMENT + (length + 2).to_bytes(2, "big") + bytes(length)
    return jpeg[:2] + comments + jpeg[2:]


def _jpeg(path: Path, side: int) -> bytes:
    with Image.open(path) as picture:
        image = picture.convert("RGB")
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()
