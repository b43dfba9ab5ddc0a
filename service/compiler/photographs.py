"""Real inputs, to hold a package against the eager forward on; there are some where the `bench` extra is installed."""

from __future__ import annotations

import torch
from torch import Tensor

from service.bench.pictures import bench_pictures
from service.engine.model import ServedModel
from service.errors import ConfigurationError
from service.tasks.classification import ImageDecoder

_MAX_PIXELS = 10_000_000


def photographs(model: ServedModel) -> Tensor:
    """`(N, 3, crop, crop) uint8`, decoded as the server does; N is at most the largest batch, and may be 0."""
    spec = model.loaded.input
    decoder = ImageDecoder(spec, _MAX_PIXELS)
    try:
        files = bench_pictures(spec.crop)
    except ConfigurationError:
        return torch.zeros((0, 3, spec.crop, spec.crop), dtype=torch.uint8)
    return torch.stack([decoder.decode(file) for file in files[: model.cap]])
