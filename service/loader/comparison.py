"""Outputs of one example in different company: held against the first that was seen of it, and dropped."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: Agreement proves nothing for inputs whose outputs differ by fewer tolerances, or by a smaller share, than these.
CONTRAST_IN_TOLERANCES, MOST_CONTRAST = 100, 0.1
#: Elements that are compared at a time.
_PIECE = 1 << 17


@dataclass
class _Output:
    """One output over all forwards. Figures are shares of its largest value, or 1 for integers that are not equal."""

    scale: float = 0.0
    difference: float = 0.0
    noise: float = 0.0
    where: str = ""

    def share(self, value: float) -> float:
        return value / (self.scale or 1.0)


@dataclass
class Comparison:
    """Differences that company, repetition and the input make to each output, each judged on its own scale.

    Attributes:
        tolerance: the largest share that company may change.
    """

    tolerance: float
    _outputs: list[_Output] = field(default_factory=list)
    _first: dict[int, tuple[tuple[int, ...], list[Tensor]]] = field(default_factory=dict)

    def add(self, order: tuple[int, ...], outputs: Sequence[Tensor]) -> None:
        """Take in the outputs of a batch of the examples in `order`, each `(N, ...)` on any device."""
        self._outputs += [_Output() for _ in outputs[len(self._outputs) :]]
        here = [output.detach().cpu() for output in outputs]
        for found, output in zip(self._outputs, here, strict=False):
            found.scale = max(found.scale, _largest(output))
        for position, example in enumerate(order):
            rows = [output[position] for output in here]
            if example not in self._first:
                self._first[example] = order, [row.clone() for row in rows]
            else:
                self._compare(order, position, *self._first[example], rows)

    def _compare(
        self, order: tuple[int, ...], position: int, first: tuple[int, ...], before: list[Tensor], rows: list[Tensor]
    ) -> None:
        for place, (found, one, other) in enumerate(zip(self._outputs, before, rows, strict=False)):
            difference = distance([one], [other])
            if difference and not one.is_floating_point() and self._is_a_tie(place, before, rows):
                continue
            if difference > found.difference:
                found.difference, found.where = difference, f"input {position + 1} of {len(order)}"
            if order == first:
                found.noise = max(found.noise, difference)

    def _is_a_tie(self, place: int, before: list[Tensor], rows: list[Tensor]) -> bool:
        """Return whether integers differ as an arg max may: between scores that are within the tolerance."""
        one, other = before[place], rows[place]
        if one.shape != other.shape:
            return False
        for scores, found in zip(before, self._outputs, strict=False):
            if scores.is_floating_point() and scores.shape[:-1] == one.shape and scores.dim():
                picked = [
                    scores.gather(-1, ids.long().clamp(0, scores.shape[-1] - 1)[..., None]) for ids in (one, other)
                ]
                best = scores.amax(-1, keepdim=True)
                close = self.tolerance * (found.scale or 1.0)
                if all(bool(((best - each).abs() <= close).all()) for each in picked):
                    return True
        return False

    @property
    def _worst(self) -> _Output:
        return max(self._outputs, key=lambda each: each.share(each.difference), default=_Output())

    @property
    def difference(self) -> float:
        """Return the largest share that company changed of an output, and in `where` of which input."""
        return self._worst.share(self._worst.difference)

    @property
    def where(self) -> str:
        return self._worst.where

    @property
    def noise(self) -> float:
        """Return the largest share that repetition changed."""
        return max((each.share(each.noise) for each in self._outputs), default=0.0)

    @functools.cached_property
    def contrast(self) -> float:
        """The largest share by which different examples differ, once all have been seen."""
        rows = [rows for _, rows in self._first.values()]
        return max(
            (
                found.share(distance([rows[0][place]], [row[place]]))
                for place, found in enumerate(self._outputs)
                for row in rows[1:]
                if place < min(len(rows[0]), len(row))
            ),
            default=0.0,
        )

    @property
    def examples(self) -> int:
        """Return the number of examples that were seen."""
        return len(self._first)

    @property
    def rows(self) -> Tensor:
        """Return the first output of each example, `(N, K) float64`; empty where they are not vectors."""
        first = [rows[0] for _, rows in self._first.values() if rows and rows[0].dim() == 1]
        same = [row.double() for row in first if row.shape == first[0].shape]
        return torch.stack(same) if same else torch.empty(0, 0)

    @property
    def inconclusive(self) -> str:
        """Say why agreement proves nothing; empty if it proves something."""
        wanted = min(CONTRAST_IN_TOLERANCES * self.tolerance, MOST_CONTRAST)
        if self.contrast >= wanted:
            return ""
        return f"Different inputs differ by {self.contrast:.1e} only; below {wanted:.0e} the rule shows nothing."


def _largest(output: Tensor) -> float:
    """Return the largest finite value: beside an infinite scale nothing would be a difference."""
    if not output.is_floating_point():
        return 0.0  # an integer is equal or is not: no scale makes it less wrong
    return max((_largest_of(piece) for piece in _pieces(output) if piece.numel()), default=0.0)


def _largest_of(piece: Tensor) -> float:
    largest = max(map(abs, map(float, torch.aminmax(piece))))
    if math.isfinite(largest):
        return largest
    finite = piece[piece.isfinite()]
    return max(map(abs, map(float, torch.aminmax(finite)))) if finite.numel() else 0.0


def apart(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return the largest difference, as a share of the same output's largest value; integers are equal, or 1 apart."""
    pairs = zip(expected, found, strict=True)
    return max(distance([one], [other]) / (_largest(one) or 1.0) for one, other in pairs)


def distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the largest absolute difference; two NaN are equal, a NaN and a number infinitely far apart."""
    largest = 0.0
    for a, b in zip(one, other, strict=False):  # outputs of another number fail by their bits
        if a.shape != b.shape:
            return float("inf")
        if not a.numel() or torch.equal(a, b):
            continue
        for one_piece, other_piece in zip(_pieces(a), _pieces(b), strict=True):
            x, y = one_piece.double(), other_piece.double()
            alike = (one_piece == other_piece) | (x.isnan() & y.isnan())
            apart = torch.where(alike, 0.0, (x - y).abs().nan_to_num(nan=float("inf"), posinf=float("inf")))
            if not a.is_floating_point():
                apart = torch.where(alike, 0.0, apart.clamp(min=1))  # float64 cannot tell large integers apart
            largest = max(largest, float(apart.max()))
    return largest


def _pieces(tensor: Tensor) -> Sequence[Tensor]:
    """Cut a large tensor, of which float64 would be twice as large again."""
    return torch.split(tensor.reshape(-1), _PIECE)
