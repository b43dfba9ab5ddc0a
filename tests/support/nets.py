"""Small networks of the kinds that new users bring; each model's folder in tests/support/newcomer.py has a copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


def net(num_classes: int = 5, channels: int = 3) -> nn.Module:
    """One layer over a picture of 8 x 8 pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, num_classes))


def needs_classes(num_classes: int) -> nn.Module:
    return net(num_classes)


def trained(num_classes: int = 5, channels: int = 3) -> nn.Module:
    """A net with weights that are the same in every process, as `from_pretrained` gives them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return net(num_classes, channels)


class Ending(nn.Module):
    """A trained net whose forward ends in a function."""

    def __init__(self, end: Callable[[Tensor], object], num_classes: int = 5) -> None:
        super().__init__()
        self.model = trained(num_classes)
        self.end = end

    def forward(self, pixel_values: Tensor) -> object:
        return self.end(self.model(pixel_values))


def softmax() -> nn.Module:
    return Ending(lambda scores: scores.softmax(1))


def sigmoid() -> nn.Module:
    return Ending(torch.sigmoid)


def log_softmax() -> nn.Module:
    return Ending(lambda scores: scores.log_softmax(1))


def unit_vectors() -> nn.Module:
    return Ending(functional.normalize, 32)


def small_logits() -> nn.Module:
    """Logits that all lie between 0 and 1, as those of few classes do by chance."""
    layer = trained(2)
    with torch.no_grad():
        layer[1].weight.mul_(0.01)
        layer[1].bias.copy_(torch.tensor([0.4, 0.6]))
    return layer


def one_number() -> nn.Module:
    return trained(1)


@dataclass
class ModelOutput:
    """What models of Hugging Face's transformers give."""

    logits: Tensor
    hidden_states: Tensor


def model_output() -> nn.Module:
    return Ending(lambda scores: ModelOutput(scores, scores * 2))


def boxes() -> nn.Module:
    return Ending(lambda scores: {"boxes": scores[:, :4], "masks": scores})


def whole_maps() -> nn.Module:
    return nn.Conv2d(3, 5, 1)


def text() -> nn.Module:
    return nn.Sequential(nn.Embedding(1000, 8), nn.Flatten(), nn.Linear(8, 2))


def sound() -> nn.Module:
    return nn.Sequential(nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(8, 2))


def table() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 2))


def grey() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 5))


def of_28_pixels() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 5))


def state_dict() -> object:
    return net().state_dict()


made_already = net()
