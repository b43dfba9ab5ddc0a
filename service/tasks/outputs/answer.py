"""One way from an engine's results to an answer, in the front end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy.typing as npt

from service.signature import Signature, TensorSpec

#: The media type of JSON.
JSON = b"application/json"


class Answering(Protocol):
    """The model that has answered.

    Attributes:
        answer: what its output writes besides the results.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def answer(self) -> Mapping[str, Any]: ...
    @property
    def signature(self) -> Signature: ...


class Written(NamedTuple):
    """The body of a 200, its media type, and headers that only it has."""

    body: bytes
    media_type: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


#: A tensor of an answer: numbers, or texts.
Named = npt.NDArray[Any] | Sequence[Sequence[str]]


class Ranked(NamedTuple):
    """One element of a tensor: its value, its place among the example's elements, and the label of that."""

    value: float
    place: int
    label: str = ""


class Output(Protocol):
    """Writes answers for a task. Wishes are its own: what a request may ask of an answer.

    Attributes:
        has_pipeline: whether a pipeline of Hugging Face's transformers does this task.
    """

    has_pipeline: ClassVar[bool]

    def wishes(self, query: Iterable[tuple[str, str]], accept: str, signature: Signature) -> Any:
        """Return what a request's query and its `Accept` wish for, of a model of that signature.

        Raises:
            Unprocessable: there is no such option, or no such value.
            NotAcceptable: nothing that is accepted can be written.
        """

    def agreed(self, wishes: Any, options: Mapping[str, Any]) -> Any:
        """Return the wishes with those that the body holds.

        Raises:
            Unprocessable: there is no such option, or both say different things.
        """

    def documented(self, signature: Signature, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer for `/openapi.json`: by media type a schema."""

    def listed(self, signature: Signature, answer: Mapping[str, Any]) -> Sequence[TensorSpec]:
        """Return the tensors that `named` gives; the dtype `bytes` stands for texts."""

    def named(self, results: Sequence[npt.NDArray[Any]], by: Answering) -> Sequence[Named]:
        """Return the answer as tensors, `(count, *shape)` for each that is listed."""

    def ranked(
        self, name: str, most: int, results: Sequence[npt.NDArray[Any]], by: Answering
    ) -> Sequence[Sequence[Ranked]]:
        """Return the highest elements of a listed tensor, falling: for each example at most `most`.

        Raises:
            Unprocessable: the tensor has no order.
        """

    def rows(self, results: Sequence[npt.NDArray[Any]], by: Answering, wishes: Any) -> Sequence[Any]:
        """Return an entry for each example, which JSON can hold; a single tensor or number has no name there."""

    def pipeline(self, results: Sequence[npt.NDArray[Any]], by: Answering, wishes: Any) -> Any:
        """Return the answer to one example as that pipeline gives it."""

    def write(self, results: Sequence[npt.NDArray[Any]], by: Answering, wishes: Any) -> Written:
        """Return the answer.

        Args:
            results: `(count, ...)` for each output of the signature.
        """


class ResultsAsTensors:
    """Gives the results as they are for an answer of tensors."""

    def listed(self, signature: Signature, answer: Mapping[str, Any]) -> Sequence[TensorSpec]:
        return signature.outputs

    def named(self, results: Sequence[npt.NDArray[Any]], by: Answering) -> Sequence[Named]:
        return results


def answer_schema(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an answer with one entry of these properties for each example."""
    text, each = {"type": "string"}, {"type": "object", "properties": dict(entry), "required": list(entry)}
    properties = {"model": text, "version": text, "predictions": {"type": "array", "items": each}}
    return {"type": "object", "properties": properties, "required": list(properties)}
