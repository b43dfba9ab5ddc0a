"""The scores in what a forward gives: a tensor, or the one that is called so in an object or a dict of several."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

#: Hugging Face's name, which other libraries have taken over.
_NAME = "logits"


class Scores(nn.Module):
    """A module that gives an object or a dict, and one tensor of that for its output. This is frozen and proven."""

    def __init__(self, module: nn.Module, key: str) -> None:
        super().__init__()
        self.module = module
        self._key = key
        self.eval()

    def forward(self, pixels: Tensor) -> Any:
        return _under(self.module(pixels), self._key)


def key_of_scores(output: object) -> str | None:
    """Return the name of the scores in an output that is not a tensor; None if that is not certain."""
    if isinstance(getattr(output, _NAME, None), Tensor):
        return _NAME
    if not isinstance(output, Mapping):
        return None
    names = [name for name, value in output.items() if isinstance(value, Tensor)]
    if _NAME in names:
        return _NAME
    return names[0] if len(names) == 1 else None


def scores_of(output: object) -> Any:
    """Return the scores of an output, or the output itself if they cannot be told apart."""
    key = None if isinstance(output, Tensor) else key_of_scores(output)
    return output if key is None else _under(output, key)


def said_of(output: object) -> str:
    """Describe an output in words."""
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    kind, names = type(output).__name__, []
    if isinstance(output, Mapping):
        names = [str(name) for name in output]
    elif dataclasses.is_dataclass(output):
        names = [field.name for field in dataclasses.fields(output)]
    return f"{kind} of {', '.join(names)}, none of them called {_NAME}" if len(names) > 1 else kind


def _under(output: Any, key: str) -> Any:
    return output[key] if isinstance(output, Mapping) else getattr(output, key)
