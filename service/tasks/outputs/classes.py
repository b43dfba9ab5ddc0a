"""The answer of a classifier: its most probable classes, in the one shape that everything here writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec


class Class(msgspec.Struct):
    id: int
    label: str
    probability: float


class Prediction(msgspec.Struct):
    classes: list[Class]


class Answer(msgspec.Struct):
    """The body of a 200: one prediction for each picture, in order."""

    model: str
    version: str
    predictions: list[Prediction]


def prediction(ids: Iterable[int], probabilities: Iterable[float], labels: Sequence[str]) -> Prediction:
    """Return one example's classes; probabilities are float32, and 7 digits tell any two of those apart."""
    return Prediction([Class(i, labels[i], float(f"{p:.7g}")) for i, p in zip(ids, probabilities, strict=True)])


def predictions(count: int, k: int, ids: bytes, probabilities: bytes, labels: Sequence[str]) -> list[Prediction]:
    """Return the classes of each of `count` examples.

    Args:
        ids: `(count, k) int32`, C order.
        probabilities: `(count, k) float32`, C order.
    """
    id_rows: list[Any] = memoryview(ids).cast("i", (count, k)).tolist()
    probability_rows: list[Any] = memoryview(probabilities).cast("f", (count, k)).tolist()
    return [prediction(*row, labels) for row in zip(id_rows, probability_rows, strict=True)]
