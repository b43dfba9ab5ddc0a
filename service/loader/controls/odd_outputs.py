"""Controls whose outputs are not what a softmax is for: the eight rules hold, and answers would be wrong."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.loader.controls.broken import CLASSES, Base


class EndsInSoftmax(Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class EndsInSigmoid(Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sigmoid()


class EndsInClamp(Base):
    """Probabilities of several labels at once, some of them exactly 0 or 1."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.hardsigmoid(5 * super().forward(x))


class Embeds(Base):
    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(super().forward(x))


class LosesItsWeights(Base):
    """A checkpoint of zeros loads as well as any other."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()


class GivesItsParameter(Base):
    """A view of a weight is not an inference tensor, and not part of a graph either."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head.bias.expand(len(x), CLASSES)


#: By name: how it is built, and the findings that must be made, exactly.
ODD_OUTPUTS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "ends in softmax": (EndsInSoftmax, {"activation"}),
    "ends in sigmoid": (EndsInSigmoid, {"activation"}),
    "ends in a clamp from 0 to 1": (EndsInClamp, {"activation"}),
    "gives unit vectors": (Embeds, {"unit-norm"}),
    "has lost its weights": (LosesItsWeights, {"constant"}),
    "gives a view of its own parameter": (GivesItsParameter, {"constant"}),
}
