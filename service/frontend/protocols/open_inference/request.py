"""A request of the protocol: its JSON, and which tensors and outputs of a model that means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import msgspec

from service.errors import Unprocessable
from service.frontend.protocols.open_inference.datatypes import NAMES
from service.signature import TensorSpec
from service.tasks.inputs.json_bodies import decoded

_Parameters = dict[str, Any] | None
MOST_ID = 1024


class RequestInput(msgspec.Struct):
    name: str
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(min_length=1)]
    datatype: str
    parameters: _Parameters = None
    data: msgspec.Raw = msgspec.Raw()


class RequestOutput(msgspec.Struct):
    name: str
    parameters: _Parameters = None


class InferenceRequest(msgspec.Struct):
    inputs: list[RequestInput]
    id: Annotated[str, msgspec.Meta(max_length=MOST_ID)] | None = None
    parameters: _Parameters = None
    outputs: list[RequestOutput] | None = None


class Wanted(NamedTuple):
    """One output of the answer; `classes` is the number of its highest elements to give in its place, or 0."""

    name: str
    is_binary: bool
    classes: int = 0


_decoder = msgspec.json.Decoder(InferenceRequest)


def read_request(body: bytes) -> InferenceRequest:
    """Return the request that the JSON of a body is.

    Raises:
        Malformed: it is not JSON.
        Unprocessable: it is of another shape.
    """
    return decoded(_decoder.decode, body, _said)


def _said(words: str) -> str:
    return f'{words}; the body must be {{"inputs": [{{"name", "shape", "datatype", "data"}}, …]}}.'


def spec_of(given: RequestInput, takes: Sequence[TensorSpec]) -> TensorSpec:
    """Return which of the tensors that a model takes an input is."""
    fitting = [spec for spec in takes if spec.name == given.name]
    if not fitting:
        names = ", ".join(dict.fromkeys(spec.name for spec in takes))
        raise Unprocessable(f"{given.name[:80]!r} is not an input of the model; it takes {names}.")
    for spec in fitting:
        if NAMES[spec.dtype] == given.datatype and tuple(given.shape[1:]) == spec.shape:
            return spec
    wanted = " or ".join(f"{NAMES[spec.dtype]} of shape {[-1, *spec.shape]}" for spec in fitting)
    shape = f"{given.shape[:8]}"[:200]
    raise Unprocessable(f"The input {given.name} is {given.datatype[:20]} of shape {shape}; it must be {wanted}.")


def wanted_of(output: RequestOutput, binary: bool, there: Sequence[str]) -> Wanted:
    if output.name not in there:
        raise Unprocessable(f"{output.name[:80]!r} is not an output of the model; it gives {', '.join(there)}.")
    parameters = output.parameters or {}
    classes = parameters.get("classification", 0)
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
        raise Unprocessable(f"classification of the output {output.name} must be a number of classes.")
    return Wanted(output.name, flag(parameters, "binary_data", binary), classes)


def flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Unprocessable(f"The parameter {name} must be true or false.")
    return value
