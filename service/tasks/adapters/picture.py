"""Pictures as a model sees them: normalised, in its dtype and memory format."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from service.errors import ConfigurationError
from service.signature import TensorSpec
from service.tasks.adapters.adapter import Preparation
from service.tasks.adapters.made_up import blots
from service.tasks.catalogue import side
from service.tasks.inputs.spec import InputSpec


class Picture(Preparation):
    """Normalises decoded pictures.

    Args:
        spec: the card's `[input]`, resolved.
    """

    def __init__(self, spec: InputSpec, module: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.inputs = (TensorSpec("image", "uint8", spec.shape),)
        mean, std = mean_and_std(spec)
        self.mean, self.std = nn.Buffer(mean), nn.Buffer(std)

    def forward(self, *arrays: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Take `(N, C, H, W) uint8`."""
        return [normalise(arrays[0], self.mean, self.std, self.dtype, self.memory_format)], {}

    def examples(self, count: int) -> tuple[Tensor, ...]:
        return (blots(count, self.spec.shape),)

    def real_examples(self, most: int) -> tuple[Tensor, ...] | None:
        """Decode photographs as the server does; they need the `bench` extra."""
        try:
            return (torch.from_numpy(side("service.tasks.photographs:decoded_photographs")(self.spec, most)),)
        except ConfigurationError:
            return None


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
