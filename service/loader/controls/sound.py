"""Controls that must pass: what is unusual and right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.loader.controls.broken import CLASSES, Base


class WithNormAndDropout(Base):
    def __init__(self) -> None:
        super().__init__()
        self.body.insert(1, nn.BatchNorm2d(6))
        self.body.append(nn.Dropout(0.5))


class TiesWeights(Base):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(CLASSES, CLASSES), nn.Linear(CLASSES, CLASSES)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(super().forward(x)).relu())


class WithSpectralNorm(Base):
    """The old one, of hooks and a buffer that train mode alone updates."""

    def __init__(self) -> None:
        super().__init__()
        nn.utils.spectral_norm(self.head)


class WithParametrizations(Base):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.spectral_norm(self.head)
        nn.utils.parametrizations.weight_norm(self.body[0])


class GivesATuple(Base):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x)
        return self.head(features), features


class GivesADict(Base):
    def forward(self, x: Tensor) -> dict[str, Any]:
        scores = super().forward(x)
        return {"logits": scores, "more": [scores.softmax(1), scores.argmax(1)], "loss": None}


class GivesItsInput(Base):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :CLASSES]


class HidesAFrozenLayer(Base):
    """Out of sight of `state_dict()`, but in order."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Linear(CLASSES, CLASSES).eval().requires_grad_(False)]

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden[0](super().forward(x))


class KeepsAConstant(Base):
    """Made at the first call, the same ever after."""

    places: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.places is None:
            self.places = torch.linspace(-1, 1, 8)
        return super().forward(x + self.places)


class KeepsAMaskForTheLastSize(Base):
    """Made again for another batch size; what it holds depends on nothing else."""

    mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.mask is None or len(self.mask) != len(x):
            self.mask = torch.ones(len(x), 1, 8, 8).tril()
        return super().forward(x * self.mask)


class WritesInPlaceToItsOwn(Base):
    """Writes in place only to what forward made itself."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x).clone()
        features.mul_(2).add_(1)
        return self.head(functional.relu(features, inplace=True))


class Attends(nn.Module):
    """A transformer layer takes a fused path in inference that training does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(24, 2, 32, batch_first=True)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.transpose(1, 2).flatten(2)).mean(1))


class Remembers(nn.Module):
    """A recurrent layer whose state ends with the call."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(24, 8, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        _, (last, _) = self.memory(x.transpose(1, 2).flatten(2))
        return self.head(last[-1])


class NoGradWithin(Base):
    """`no_grad` inside inference mode is harmless."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class _Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 2


class WithAFunction(Base):
    """A custom autograd Function, as in memory-efficient activations; it keeps nothing where no graph is built."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_Doubling.apply(x))


def compiled() -> nn.Module:
    """Through torch.compile's graph capture; without its code generator, which takes seconds and a C++ compiler."""
    module = Base().eval().requires_grad_(False)
    return torch.compile(module, backend="aot_eager", dynamic=True)  # type: ignore[return-value]


def without_parameters() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


#: By name: how it is built.
SOUND: dict[str, Callable[[], nn.Module]] = {
    "an ordinary model": Base,
    "BatchNorm and Dropout in eval mode": WithNormAndDropout,
    "tied weights": TiesWeights,
    "spectral norm": WithSpectralNorm,
    "parametrizations": WithParametrizations,
    "gives a tuple": GivesATuple,
    "gives a dict": GivesADict,
    "gives a view of its input": GivesItsInput,
    "a frozen layer in a plain list": HidesAFrozenLayer,
    "keeps a constant": KeepsAConstant,
    "keeps a mask for the last batch size": KeepsAMaskForTheLastSize,
    "writes in place to what it made": WritesInPlaceToItsOwn,
    "a transformer layer": Attends,
    "a recurrent layer": Remembers,
    "no_grad within inference mode": NoGradWithin,
    "a custom autograd Function": WithAFunction,
    "torch.compile": compiled,
    "no parameters": without_parameters,
}
