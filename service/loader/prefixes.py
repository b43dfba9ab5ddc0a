"""Names in a state_dict that begin with more, or with less, than the architecture's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

#: An architecture's names with the shapes of its tensors; None where any shape will do.
Shapes: TypeAlias = Mapping[str, torch.Size | None]


@dataclass(frozen=True)
class Fit:
    """The number of tensors that fit an architecture once their names have lost a prefix."""

    count: int
    prefix: str = ""


def shapes_of(module: nn.Module) -> Shapes:
    named = module.state_dict(keep_vars=True).items()
    return {name: value.shape if isinstance(value, Tensor) and not is_lazy(value) else None for name, value in named}


def best_fit(state: Mapping[str, Any], wanted: Shapes) -> Fit:
    """Return the prefix without which the most tensors fit, in name and shape; none if removing one does not help."""
    counts = Counter(
        name[: len(name) - len(rest)]
        for name, value in state.items()
        for rest in _ends(name)
        if _fits(rest, value, wanted)
    )
    prefix = max(counts, key=lambda each: (counts[each], -len(each)), default="")
    return Fit(counts[prefix], prefix)


def prefix_hint(state: Collection[str], wanted: Collection[str], stripped: str) -> str:
    """Say in one line what all names of one side begin with and those of the other do not; empty if that is not it.

    Args:
        stripped: the prefix that the names have lost already.
    """
    if more := _common_prefix(state, wanted):
        number = sum(name.startswith(more) for name in state)
        count = f"all {number} keys begin" if number == len(state) else f"{number} of {len(state)} keys begin"
        return f'{count} with "{stripped}{more}"; set strip_prefix = "{stripped}{more}"'
    if less := _common_prefix(wanted, state):
        part = less.rstrip(".")
        return (
            f'all {len(state)} keys lack the "{less}" that the architecture\'s begin with; save the state_dict of the '
            f"whole model, or have the factory return its {part}"
        )
    return ""


def _common_prefix(longer: Collection[str], shorter: Collection[str]) -> str:
    """Return the prefix of the longer names, if most of the shorter ones are found behind it, and fewer without it."""
    known = set(shorter)
    counts = Counter(name[: len(name) - len(rest)] for name in longer for rest in _ends(name) if rest in known)
    prefix = max(counts, key=lambda each: (counts[each], -len(each)), default="")
    return prefix if prefix and 2 * counts[prefix] > len(known) else ""


def _fits(name: str, value: Any, wanted: Shapes) -> bool:
    if name not in wanted:
        return False
    shape = wanted[name]
    return shape is None or not isinstance(value, Tensor) or value.shape == shape


def _ends(name: str) -> Iterator[str]:
    """The name, and what is left of it behind each of its dots."""
    while name:
        yield name
        name = name.partition(".")[2]
