"""Pictures that a proof runs a model on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def probes(count: int, shape: tuple[int, int, int]) -> Tensor:
    """`(count, *shape) uint8`, where a shape is (channels, height, width); no two alike, the same each time.

    Coarse blots of colour with fine noise on them: noise alone looks alike to a model that averages, blots alone to one
    that looks at edges.
    """
    generator = torch.Generator().manual_seed(2024)
    return torch.cat([_probe(shape, generator) for _ in range(count)])


def _probe(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    channels, *size = shape
    coarse, fine = (torch.rand(1, channels, *sides, generator=generator) for sides in ((5, 5), size))
    share = torch.rand(1, generator=generator) / 2
    blots = functional.interpolate(coarse, size=size, mode="bilinear")
    return ((blots * (1 - share) + fine * share) * 255).round().to(torch.uint8)
