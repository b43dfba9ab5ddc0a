"""The answer of a regression: its numbers, by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy.typing as npt

from service.signature import Signature
from service.tasks.outputs.answer import JSON, Answering, Ranked, ResultsAsTensors, Written, answer_schema
from service.tasks.outputs.options import no_options
from service.tasks.outputs.ranking import highest


class Values(msgspec.Struct):
    values: dict[str, float]


class ValuesAnswer(msgspec.Struct):
    """The body of a 200: the numbers of each example, in order."""

    model: str
    version: str
    predictions: list[Values]


class ValuesOutput(ResultsAsTensors):
    """Writes `{"values": {NAME: number}}`; there is nothing to wish for."""

    has_pipeline = False

    def wishes(self, query: Iterable[tuple[str, str]], accept: str, signature: Signature) -> None:
        no_options(query)

    def agreed(self, wishes: None, options: Mapping[str, Any]) -> None:
        no_options((key, str(value)) for key, value in options.items())

    def documented(self, signature: Signature, answer: Mapping[str, Any]) -> dict[str, Any]:
        numbers = {name: {"type": "number"} for name in answer["values"]}
        values = {"type": "object", "properties": numbers, "required": list(numbers)}
        return {"application/json": {"schema": answer_schema({"values": values})}}

    def ranked(
        self, name: str, most: int, results: Sequence[npt.NDArray[Any]], by: Answering
    ) -> Sequence[Sequence[Ranked]]:
        return highest(results[0], most, by.answer["values"])

    def rows(self, results: Sequence[npt.NDArray[Any]], by: Answering, wishes: None) -> Sequence[Any]:
        found = _numbers(results, by)
        return [next(iter(each.values())) if len(each) == 1 else each for each in found]

    def pipeline(self, results: Sequence[npt.NDArray[Any]], by: Answering, wishes: None) -> Any:
        raise NotImplementedError

    def write(self, results: Sequence[npt.NDArray[Any]], by: Answering, wishes: None) -> Written:
        found = [Values(each) for each in _numbers(results, by)]
        return Written(_encoder.encode(ValuesAnswer(by.name, by.version, found)), JSON)


def _numbers(results: Sequence[npt.NDArray[Any]], by: Answering) -> list[dict[str, float]]:
    """Return each example's numbers by name: float32 with the 7 digits that tell any two of them apart."""
    names = by.answer["values"]
    return [
        {name: float(f"{number:.7g}") for name, number in zip(names, row, strict=True)} for row in results[0].tolist()
    ]


_encoder = msgspec.json.Encoder()
