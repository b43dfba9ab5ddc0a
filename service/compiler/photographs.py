"""Real inputs, to compare a package with the eager forward on; they need the `bench` extra."""

from __future__ import annotations

import torch
from torch import Tensor

from service.engine.model import ServedModel
from service.errors import ConfigurationError
from service.tasks.inputs.picture import ImageDecoder
from service.tasks.photographs import bench_pictures

_MAX_PIXELS = 10_000_000


def photographs(model: ServedModel) -> Tensor:
    """`(N, C, H, W) uint8`, decoded as the server does; N is at most the largest batch, and may be 0."""
    spec = model.loaded.input
    decoder = ImageDecoder(spec, _MAX_PIXELS)
    try:
        files = bench_pictures(spec.side)
    except ConfigurationError:
        return torch.zeros((0, *spec.shape), dtype=torch.uint8)
    return torch.stack([decoder.decode(file) for file in files[: model.cap]])
