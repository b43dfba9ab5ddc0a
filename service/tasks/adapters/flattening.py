"""The outputs in what a forward returns: a tensor, several in a tuple, or some by name in a dict or an object."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from service.errors import ModelOutputInvalid

#: Name of the only output of a module that returns a tensor.
ALONE = "output"
#: Hugging Face's name of a classifier's scores, which other libraries have taken over.
SCORES = "logits"


class Flattening:
    """Picks outputs from what a module returns, and puts the batch first.

    Args:
        keys: of each output: a name, a position, or None for the returned tensor itself.
        batch_axes: by output, the axis along which it has its examples.

    Attributes:
        by_name: whether the module gives outputs names.
    """

    def __init__(self, keys: Sequence[str | int | None], batch_axes: Sequence[int]) -> None:
        self._picks = list(zip(keys, batch_axes, strict=True))
        self.by_name = any(isinstance(key, str) for key in keys)

    def outputs(self, returned: Any) -> tuple[Tensor, ...]:
        """Return the outputs, the batch along the first axis of each.

        Raises:
            ModelOutputInvalid: one of them is not there, or is not a tensor.
        """
        return tuple([_batch_first(_under(returned, key), axis) for key, axis in self._picks])


def _batch_first(output: Tensor, axis: int) -> Tensor:
    return output.movedim(axis, 0) if axis else output


def named_outputs(returned: object) -> dict[str, tuple[str | int | None, Tensor]]:
    """Return every tensor that is directly in what a module returned: by its name, its key and itself."""
    if isinstance(returned, Tensor):
        return {ALONE: (None, returned)}
    if isinstance(returned, Mapping):
        return {str(key): (key, value) for key, value in returned.items() if isinstance(value, Tensor)}
    if isinstance(returned, tuple | list) and not hasattr(returned, "_fields"):
        places = [(place, value) for place, value in enumerate(returned) if isinstance(value, Tensor)]
        return {f"{ALONE}_{place}": (place, value) for place, value in places}
    return {name: (name, value) for name, value in _fields(returned) if isinstance(value, Tensor)}


def key_of_scores(returned: object) -> str | None:
    """Return the name of the scores in what is not a tensor; None if that is not certain."""
    if isinstance(getattr(returned, SCORES, None), Tensor):
        return SCORES
    if not isinstance(returned, Mapping):
        return None
    names = [name for name, value in returned.items() if isinstance(value, Tensor)]
    if SCORES in names:
        return SCORES
    return names[0] if len(names) == 1 else None


def scores_of(returned: object) -> Any:
    """Return the scores in what a classifier returned, or all of it if they cannot be told apart."""
    key = None if isinstance(returned, Tensor) else key_of_scores(returned)
    return returned if key is None else _under(returned, key)


def said_of(returned: object) -> str:
    """Describe in words what a module returned."""
    if isinstance(returned, Tensor):
        return str(tuple(returned.shape))
    kind, names = type(returned).__name__, []
    if isinstance(returned, Mapping):
        names = [str(name) for name in returned]
    elif dataclasses.is_dataclass(returned):
        names = [field.name for field in dataclasses.fields(returned)]
    return f"{kind} of {', '.join(names)}, none of them called {SCORES}" if len(names) > 1 else kind


def _fields(returned: object) -> list[tuple[str, Any]]:
    if dataclasses.is_dataclass(returned):
        return [(field.name, getattr(returned, field.name)) for field in dataclasses.fields(returned)]
    names: Iterable[str] = getattr(returned, "_fields", getattr(returned, "__dict__", ()))
    return [(name, getattr(returned, name)) for name in names]


def _under(returned: Any, key: str | int | None) -> Tensor:
    try:
        if key is None:
            found = returned
        elif isinstance(key, str) and not isinstance(returned, Mapping):
            found = getattr(returned, key)
        else:
            found = returned[key]
    except (LookupError, TypeError, AttributeError):
        raise ModelOutputInvalid(f"The model returned {said_of(returned)}, without {key!r}.") from None
    if not isinstance(found, Tensor):
        raise ModelOutputInvalid(f"The model returned {said_of(found)} where it must return a tensor.")
    return found
