"""The answer of a classifier: its most probable classes, in the one shape that everything here writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from service.errors import Unprocessable
from service.signature import Signature, TensorSpec
from service.tasks.outputs.answer import JSON, Answering, Named, Ranked, Written
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

    has_pipeline = True

    def wishes(self, query: Iterable[tuple[str, str]], accept: str, signature: Signature) -> int | None:
        return top_k_of_query(query)

    def agreed(self, wishes: int | None, options: Mapping[str, Any]) -> int:
        return agreed_top_k(wishes, options.get("top_k"))

    def documented(self, signature: Signature, answer: Mapping[str, Any]) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": "#/components/schemas/Answer"}}}

    def listed(self, signature: Signature, answer: Mapping[str, Any]) -> Sequence[TensorSpec]:
        shape = signature.outputs[0].shape
        kinds = {"ids": "int64", "probabilities": "float32", "labels": "bytes"}
        return [TensorSpec(name, dtype, shape) for name, dtype in kinds.items()]

    def named(self, results: Sequence[npt.NDArray[Any]], by: Answering) -> Sequence[Named]:
        probabilities, ids = results
        labels = by.answer["labels"]
        return [ids.astype(np.int64), probabilities, [[labels[i] for i in row] for row in ids.tolist()]]

    def ranked(
        self, name: str, most: int, results: Sequence[npt.NDArray[Any]], by: Answering
    ) -> Sequence[Sequence[Ranked]]:
        if name != "probabilities":
            raise Unprocessable(f"classification is for the output probabilities, not for {name}.")
        probabilities, ids = results
        labels = by.answer["labels"]
        pairs = zip(probabilities[:, :most].tolist(), ids[:, :most].tolist(), strict=True)
        return [[Ranked(p, i, labels[i]) for p, i in zip(*row, strict=True)] for row in pairs]

    def rows(self, results: Sequence[npt.NDArray[Any]], by: Answering, wishes: int) -> Sequence[Any]:
        probabilities, ids = results
        found = predictions(ids[:, :wishes], probabilities[:, :wishes], by.answer["labels"])
        return [msgspec.to_builtins(each) for each in found]

    def pipeline(self, results: Sequence[npt.NDArray[Any]], by: Answering, wishes: int) -> Any:
        (only,) = self.rows(results, by, wishes)
        return [{"label": each["label"], "score": each["probability"]} for each in only["classes"]]

    def write(self, results: Sequence[npt.NDArray[Any]], by: Answering, wishes: int) -> Written:
        probabilities, ids = results
        found = predictions(ids[:, :wishes], probabilities[:, :wishes], by.answer["labels"])
        return Written(_encoder.encode(Answer(by.name, by.version, found)), JSON)


_encoder = msgspec.json.Encoder()
