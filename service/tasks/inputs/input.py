"""One way from a request's body to a model's inputs, in the front end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from service.signature import TensorSpec

#: For each input of a model, in the order of its signature, `(count, *shape)`.
Arrays = tuple[npt.NDArray[Any], ...]


#: A tensor that has come by name: numbers, or files as bytes, or text in which files are base64.
Tensor = npt.NDArray[Any] | Sequence[bytes] | Sequence[str]


@dataclass(frozen=True, slots=True)
class Given:
    """What a body holds: `count` examples, of a form that the input knows, and options of the request by name."""

    count: int
    items: Sequence[Any]
    options: dict[str, Any]


class Input(Protocol):
    """Reads bodies for one model."""

    def read(self, content_type: str, body: bytes, most: int) -> Given:
        """Return what a body holds; nothing is decoded yet that takes long.

        Args:
            content_type: the header, as it came.
            most: the most examples of a request.

        Raises:
            UnsupportedType: the Content-Type is none of those served.
            Malformed: the body is not what its Content-Type says.
            TooLarge: more than `most` examples.
            Unprocessable: it is not what the model takes.
        """

    def takes(self) -> Sequence[TensorSpec]:
        """Return the tensors that `accept` takes, one for each input; a further one of the same name is another form.

        The dtype `bytes` stands for files or texts, one an element.
        """

    def accept(self, named: Mapping[str, Tensor], most: int) -> Given:
        """Return what tensors hold that have come by name, `(count, *shape)` each, of another protocol.

        Raises:
            TooLarge: more than `most` examples.
            Unprocessable: they are not what the model takes.
        """

    def at_once(self, given: Given, is_alone: bool) -> Arrays | None:
        """Return the arrays if that takes less time than to hand the work to a thread; else None.

        Args:
            is_alone: whether no other request is being answered.
        """

    def decode(self, item: Any) -> Sequence[npt.NDArray[Any]]:
        """Return the arrays of one item, without the count; any thread may call it."""

    @property
    def example_bytes(self) -> int:
        """Return the bytes of one example's arrays."""

    def documented(self) -> dict[str, Any]:
        """Return the bodies for `/openapi.json`: by media type a schema, with an example that works."""


def stacked(examples: Sequence[Sequence[npt.NDArray[Any]]]) -> Arrays:
    """Put the arrays of several examples together."""
    return tuple(np.stack(arrays) for arrays in zip(*examples, strict=True))
