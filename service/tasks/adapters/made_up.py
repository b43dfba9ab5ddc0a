"""Made-up examples, which a proof runs a model on: the same each time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from service.signature import TensorSpec

#: Integers without a range are drawn from these: any other might be no row of an embedding.
_SAFE = (0, 1)


def blots(count: int, shape: tuple[int, int, int]) -> Tensor:
    """`(count, *shape) uint8`, where a shape is (channels, height, width); no two alike.

    Coarse blots of colour with fine noise on them: noise alone looks alike to a model that averages, blots alone to one
    that looks at edges.
    """
    generator = torch.Generator().manual_seed(2024)
    return torch.cat([_blot(shape, generator) for _ in range(count)])


def _blot(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    channels, *size = shape
    coarse, fine = (torch.rand(1, channels, *sides, generator=generator) for sides in ((5, 5), size))
    share = torch.rand(1, generator=generator) / 2
    blots = functional.interpolate(coarse, size=size, mode="bilinear")
    return ((blots * (1 - share) + fine * share) * 255).round().to(torch.uint8)


def drawn(count: int, specs: Sequence[TensorSpec]) -> tuple[Tensor, ...]:
    """Draw `(count, *shape)` of each input: evenly from its range, and floats without one from a normal distribution.

    The first examples of a larger draw are those of a smaller one.
    """
    generator = torch.Generator().manual_seed(2024)
    rows = [[_one(spec, generator) for spec in specs] for _ in range(count)]
    return tuple(torch.stack([row[place] for row in rows]) for place in range(len(specs)))


def _one(spec: TensorSpec, generator: torch.Generator) -> Tensor:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if spec.is_floating:
        low, high = spec.range or (-math.inf, math.inf)
        if math.isinf(low) or math.isinf(high):
            number = torch.randn(spec.shape, generator=generator)
            if math.isfinite(low):
                number = low + number.abs()
            elif math.isfinite(high):
                number = high - number.abs()
            return number.to(dtype)
        number = low + (high - low) * torch.rand(spec.shape, generator=generator, dtype=torch.float64)
        return number.to(dtype)
    low, high = spec.range or _SAFE
    return torch.randint(int(low), int(high) + 1, spec.shape, generator=generator).to(dtype)
