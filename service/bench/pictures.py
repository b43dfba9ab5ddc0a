"""Real photographs for the bench, as people send them: JPEGs of about twice the size that the model sees."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

from PIL import Image

from service.errors import ConfigurationError

#: Photographs that come inside packages of the `bench` extra.
_PHOTOGRAPHS = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": ("data/astronaut.png", "data/chelsea.png", "data/coffee.png", "data/rocket.jpg"),
}
_CROPS = 500 / 224


def bench_pictures(crop: int = 224) -> list[bytes]:
    """The photographs as JPEG files; for a model that sees 224 pixels the longer side is 500, and a file 30 to 60 KB.

    Raises:
        ConfigurationError: the packages that carry them are not installed.
    """
    pictures = []
    for package, names in _PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ConfigurationError([f"bench: {package} is not installed; install gradless[bench]"])
        pictures += [
            _jpeg(Path(spec.origin).parent / name, round(_CROPS * crop))
            for name in names
            if _is_there(spec.origin, name)
        ]
    return pictures


def _is_there(origin: str, name: str) -> bool:
    return (Path(origin).parent / name).exists()


def _jpeg(path: Path, side: int) -> bytes:
    with Image.open(path) as picture:
        image = picture.convert("RGB")
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()
