"""One way from an engine's results to an answer, in the front end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from service.signature import Signature

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
    """The body of a 200, and its media type."""

    body: bytes
    media_type: bytes


class Output(Protocol):
    """Writes answers for a task. Wishes are its own: what a request may ask of an answer."""

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

    def write(self, results: Sequence[npt.NDArray[Any]], by: Answering, wishes: Any) -> Written:
        """Return the answer.

        Args:
            results: `(count, ...)` for each output of the signature.
        """


def answer_schema(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an answer with one entry of these properties for each example."""
    text, each = {"type": "string"}, {"type": "object", "properties": dict(entry), "required": list(entry)}
    properties = {"model": text, "version": text, "predictions": {"type": "array", "items": each}}
    return {"type": "object", "properties": properties, "required": list(properties)}
