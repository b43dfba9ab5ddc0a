"""Pictures that a proof runs a model on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def probes(count: int, side: int) -> Tensor:
    """`(count, 3, side, side) uint8`, no two alike, the same each time.

    Coarse blots of colour with fine noise on them: noise alone looks alike to a model that averages, blots alone to one
    that looks at edges.
    """
    generator = torch.Generator().manual_seed(2024)
    return torch.cat([_probe(side, generator) for _ in range(count)])


def _probe(side: int, generator: torch.Generator) -> Tensor:
    coarse, fine = (torch.rand(1, 3, size, size, generator=generator) for size in (5, side))
    share = torch.rand(1, generator=generator) / 2
    blots = functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return ((blots * (1 - share) + fine * share) * 255).round().to(torch.uint8)
