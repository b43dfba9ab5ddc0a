"""The answer of a classifier: its most probable classes, in the one shape that everything here writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from service.signature import Signature
from service.tasks.outputs.answer import JSON, Answering, Written
from service.tasks.outputs.options import agreed_top_k, top_k_of_query


class Class(msgspec.Struct):
    id: int
    label: str
    probability: float


class Prediction(msgspec.Struct):
    classes: list[Class]


class Answer(msgspec.Struct):
    """The body of a 200: one prediction for each example, in order."""

    model: str
    version: str
    predictions: list[Prediction]


def prediction(ids: Iterable[int], probabilities: Iterable[float], labels: Sequence[str]) -> Prediction:
    """Return one example's classes; probabilities are float32, and 7 digits tell any two of those apart."""
    return Prediction([Class(i, labels[i], float(f"{p:.7g}")) for i, p in zip(ids, probabilities, strict=True)])


def predictions(
    ids: npt.NDArray[np.int32], probabilities: npt.NDArray[np.float32], labels: Sequence[str]
) -> list[Prediction]:
    """Return the classes of each example; both arrays are `(N, k)`."""
    return [prediction(*row, labels) for row in zip(ids.tolist(), probabilities.tolist(), strict=True)]


class ClassesOutput:
    """Writes the most probable classes; its wish is `top_k`, or None where nobody has said it."""

    def wishes(self, query: Iterable[tuple[str, str]], accept: str, signature: Signature) -> int | None:
        return top_k_of_query(query)

    def agreed(self, wishes: int | None, options: Mapping[str, Any]) -> int:
        return agreed_top_k(wishes, options.get("top_k"))

    def documented(self, signature: Signature, answer: Mapping[str, Any]) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}}

    def write(self, results: Sequence[npt.NDArray[Any]], by: Answering, wishes: int) -> Written:
        probabilities, ids = results
        found = predictions(ids[:, :wishes], probabilities[:, :wishes], by.answer["labels"])
        return Written(_encoder.encode(Answer(by.name, by.version, found)), JSON)


_encoder = msgspec.json.Encoder()
