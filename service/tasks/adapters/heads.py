"""Outputs to results, for a whole batch on its device: the best classes, numbers by name, or tensors as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from service.signature import TensorSpec

#: The most classes of an example that leave the engine.
MOST_CLASSES = 100
#: A probability that a model computes itself may be a rounding error above 1.
MOST_PROBABLE = 1.001


def probabilities_of(outputs: Tensor, activation: str) -> Tensor:
    """Return probabilities, `(N, classes) float32`, of a model's outputs of that shape and any floating dtype.

    Args:
        activation: `softmax`, `sigmoid`, or `none` for outputs that are probabilities already.
    """
    if activation == "softmax":
        return torch.softmax(outputs, dim=1, dtype=torch.float32)
    return torch.sigmoid(outputs.float()) if activation == "sigmoid" else outputs.float()


def best_classes(outputs: Tensor, k: int, activation: str = "softmax") -> tuple[Tensor, Tensor]:
    """Probabilities and top-k of a whole batch on its device, brought back in one go.

    Args:
        outputs: `(N, classes)`, any floating dtype.
        k: how many classes; more than there are gives all.
        activation: as for `probabilities_of`.

    Returns:
        `(N, k) float32` probabilities, falling, and `(N, k) int32` class ids, both on the CPU. NaN comes first.
    """
    probabilities = probabilities_of(outputs, activation)
    top = torch.topk(probabilities, min(k, outputs.shape[1]), dim=1)
    values, ids = top.values, top.indices.to(torch.int32)
    # `cpu()` of a tensor that is there already costs two operators, 20 µs each once a forward has swept the caches.
    return (values, ids) if outputs.is_cpu else (values.cpu(), ids.cpu())


class ClassesHead:
    """Results of a classifier: its most probable classes, in falling order.

    Args:
        raw: the one output, `(classes,)`.
    """

    has_probabilities = True

    def __init__(self, raw: Sequence[TensorSpec], activation: str) -> None:
        self.activation = activation
        shape = (min(MOST_CLASSES, raw[0].shape[0]),)
        self.outputs = TensorSpec("probabilities", "float32", shape), TensorSpec("ids", "int32", shape)

    def reduce(self, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return best_classes(outputs[0], MOST_CLASSES, self.activation)

    def faults(self, results: Sequence[Tensor]) -> Mapping[int, str]:
        best = results[0][:, 0].tolist()
        return {place: _no_probability(value) for place, value in enumerate(best) if not 0 <= value <= MOST_PROBABLE}

    def probabilities(self, outputs: Sequence[Tensor]) -> Tensor | None:
        return probabilities_of(outputs[0], self.activation)


class TensorsHead:
    """Results that are the outputs themselves."""

    has_probabilities = False

    def __init__(self, raw: Sequence[TensorSpec], activation: str = "none") -> None:
        self.outputs = tuple(raw)
        self._finite = [place for place, spec in enumerate(raw) if spec.finite and spec.is_floating]

    def reduce(self, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple([output.contiguous() if output.is_cpu else output.contiguous().cpu() for output in outputs])

    def faults(self, results: Sequence[Tensor]) -> Mapping[int, str]:
        found: dict[int, str] = {}
        for place in self._finite:
            finite = results[place].isfinite()
            if not finite.all():
                rows = finite.reshape(len(finite), -1).all(1).logical_not_().nonzero().flatten().tolist()
                found |= {row: _not_finite(self.outputs[place].name, results[place][row]) for row in rows}
        return found

    def probabilities(self, outputs: Sequence[Tensor]) -> Tensor | None:
        return None


class ValuesHead(TensorsHead):
    """Results of a regression: numbers, in the order of their names."""

    def __init__(self, raw: Sequence[TensorSpec], activation: str = "none") -> None:
        super().__init__([TensorSpec("values", "float32", (math.prod(raw[0].shape),))])

    def reduce(self, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return super().reduce([outputs[0].reshape(len(outputs[0]), -1).float()])


def _no_probability(value: float) -> str:
    """Describe a row's highest probability. One NaN, or under softmax an infinite score, makes it NaN."""
    if math.isnan(value):
        return "The model returned NaN for this input."
    return f"The model returned {value:.3g} for this input where its card promises a probability, from 0 to 1."


def _not_finite(name: str, row: Tensor) -> str:
    what = "NaN" if row.isnan().any() else "an infinity"
    return f"The model returned {what} in {name} for this input; finite = false on the card would let it out."
