"""Outputs to results, for a whole batch on its device: probabilities, and the top classes."""

from __future__ import annotations

import torch
from torch import Tensor


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
