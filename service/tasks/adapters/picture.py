"""Pictures as a model sees them: normalised, in its dtype and memory format."""

from __future__ import annotations

import torch
from torch import Tensor

from service.tasks.inputs.spec import InputSpec


def mean_and_std(spec: InputSpec, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each channel, both `(1, C, 1, 1) float32`."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1) for values in (spec.mean, spec.std)
    )
    return mean, std


def normalise(
    pixels: Tensor,
    mean: Tensor,
    std: Tensor,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Return a model's input, `(N, C, H, W)` of `dtype`, for `uint8` pixels of that shape.

    Args:
        mean, std: of those pixels, as `mean_and_std` gives them, on their device.
    """
    images = pixels.to(torch.float32, memory_format=memory_format)
    return images.sub_(mean).div_(std).to(dtype)
