"""`POST /v2/models/{model}/infer`: a request in JSON, with tensors in it or as bytes behind it, and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import orjson
from fastapi import APIRouter

from service.errors import Malformed, Refusal, TooLarge, Unprocessable
from service.frontend.protocols.compression import compressed
from service.frontend.protocols.open_inference.about import routes
from service.frontend.protocols.open_inference.datatypes import NAMES, of_bytes, of_json, to_bytes, to_json
from service.frontend.protocols.open_inference.descriptions import VERSION, check_version
from service.frontend.protocols.open_inference.request import (
    InferenceRequest,
    RequestInput,
    Wanted,
    flag,
    read_request,
    spec_of,
    wanted_of,
)
from service.frontend.protocols.protocol import LARGE_BYTES, About, Asked, Exchange, Protocol, Sides
from service.tasks.inputs.input import Given, Tensor
from service.tasks.outputs.answer import JSON, Answering, Named, Ranked, Written
from service.validation import whole_number
from service.wire.messages import ModelState

_HEADER = "inference-header-content-length"
BINARY = b"application/octet-stream"
#: A longer time is as good as this one; not every whole number can be divided.
_MOST_MICROSECONDS = 1 << 62


class InferExchange(Exchange):
    __slots__ = ("_accepts", "_header", "_id", "_sides", "_state", "_wanted")

    def __init__(self, asked: Asked, sides: Sides, state: ModelState) -> None:
        self.seconds = None
        self._sides, self._state = sides, state
        self._header = asked.headers.get(_HEADER)
        self._accepts = asked.headers.get("accept-encoding", "")
        self._id: str | None = None
        self._wanted: list[Wanted] = []

    def is_large(self, body: bytes) -> bool:
        """Tell whether it has much JSON: bytes are only cut."""
        return len(body) >= LARGE_BYTES and (_end_of_json(self._header, body) or 0) >= LARGE_BYTES

    def read(self, body: bytes, most: int) -> Given:
        end = _end_of_json(self._header, body)
        if end is None:
            raise Malformed(
                f"Inference-Header-Content-Length is {(self._header or '')[:40]!r}; it must be the number of bytes of "
                f"the JSON, of the {len(body):,} that the body has."
            )
        if not end:
            return self._read_raw(body, most)
        request = read_request(body[:end] if end < len(body) else body)
        self._id = request.id
        self._take_parameters(request)
        return self._sides.input.accept(self._tensors(request.inputs, memoryview(body)[end:], most), most)

    def _read_raw(self, body: bytes, most: int) -> Given:
        """Read a body that is the bytes of the only input, of one example; the answer is binary, too."""
        names = {spec.name for spec in self._sides.input.takes()}
        if len(names) > 1:
            raise Malformed(f"A body without JSON holds one input, and the model takes {', '.join(sorted(names))}.")
        self._wanted = [Wanted(name, True) for name in self._outputs()]
        spec = self._sides.input.takes()[0]
        example: Tensor = [body] if spec.dtype == "bytes" else of_bytes(spec, (1, *spec.shape), memoryview(body))
        return self._sides.input.accept({spec.name: example}, most)

    def _take_parameters(self, request: InferenceRequest) -> None:
        parameters = request.parameters or {}
        timeout = parameters.get("timeout")
        if timeout is not None:
            if not isinstance(timeout, int) or isinstance(timeout, bool) or timeout < 0:
                raise Unprocessable("The parameter timeout must be a whole number of microseconds.")
            self.seconds = min(timeout, _MOST_MICROSECONDS) / 1e6 if timeout else None
        binary = flag(parameters, "binary_data_output", False)
        there = self._outputs()
        some = (request.outputs or [])[: len(there) + 1]  # of more, these have one twice, or one that does not exist
        self._wanted = [wanted_of(output, binary, there) for output in some]
        if len({wanted.name for wanted in self._wanted}) < len(self._wanted):
            raise Unprocessable("An output is requested twice; name each once.")
        self._wanted = self._wanted or [Wanted(name, binary) for name in there]

    def _outputs(self) -> list[str]:
        return [spec.name for spec in self._sides.output.listed(self._state.signature, self._state.answer)]

    def _tensors(self, inputs: Sequence[RequestInput], data: memoryview, most: int) -> dict[str, Tensor]:
        """Read each input from the JSON, or from the bytes behind it, of which all must be used."""
        found: dict[str, Tensor] = {}
        at = 0
        for given in inputs:
            spec = spec_of(given, self._sides.input.takes())
            if given.name in found:
                raise Unprocessable(f"The input {given.name} is there twice.")
            if given.shape[0] > most:
                raise TooLarge(f"{given.shape[0]} examples; at most {most} are allowed in one request.")
            size = (given.parameters or {}).get("binary_data_size")
            if (size is None) is not bool(bytes(given.data)):
                raise Malformed(f"The input {given.name} must have either data or the parameter binary_data_size.")
            if size is None:
                found[given.name] = of_json(spec, given.shape, bytes(given.data))
                continue
            if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(data) - at:
                raise Malformed(
                    f"binary_data_size of the input {given.name} is {str(size)[:40]}; the body has "
                    f"{len(data) - at:,} bytes more."
                )
            found[given.name] = of_bytes(spec, given.shape, data[at : at + size])
            at += size
        if at < len(data):
            raise Malformed(f"{len(data) - at:,} bytes of the body belong to no input; see binary_data_size.")
        if missing := {spec.name for spec in self._sides.input.takes()} - found.keys():
            names = dict.fromkeys(spec.name for spec in self._sides.input.takes())
            raise Unprocessable(f"The input {min(missing)} is missing; the model takes {', '.join(names)}.")
        return found

    def write(self, results: Sequence[npt.NDArray[Any]], by: Answering) -> Written:
        specs = self._sides.output.listed(by.signature, by.answer)
        tensors = dict(zip([spec.name for spec in specs], self._sides.output.named(results, by), strict=True))
        dtypes = {spec.name: spec.dtype for spec in specs}
        outputs, binary = [], []
        for wanted in self._wanted:
            tensor, dtype = tensors[wanted.name], dtypes[wanted.name]
            if wanted.classes:
                tensor, dtype = self._classification(wanted, results, by), "bytes"
            output: dict[str, Any] = {"name": wanted.name, "shape": _shape(tensor), "datatype": NAMES[dtype]}
            if wanted.is_binary:
                binary.append(to_bytes(dtype, tensor))
                output["parameters"] = {"binary_data_size": len(binary[-1])}
            else:
                output["data"] = to_json(tensor)
            outputs.append(output)
        answer = {"model_name": by.name, "model_version": VERSION, "outputs": outputs}
        if self._id is not None:
            answer["id"] = self._id
        head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        written = Written(head, JSON)
        if binary:
            length = (_HEADER.encode(), b"%d" % len(head))
            written = Written(b"".join([head, *binary]), BINARY, (length,))
        return compressed(written, self._accepts)

    def _classification(self, wanted: Wanted, results: Sequence[npt.NDArray[Any]], by: Answering) -> Named:
        """Write `VALUE:INDEX:LABEL` of the highest elements of an output, as Triton does."""
        ranked = self._sides.output.ranked(wanted.name, wanted.classes, results, by)
        return [[_classified(one) for one in row] for row in ranked]


def _end_of_json(stated: str | None, body: bytes) -> int | None:
    """Return the bytes of the JSON with which a body begins, as the header states them; None if it has fewer."""
    if stated is None:
        return len(body)
    end = whole_number(stated, len(body) + 1)
    return end if end is not None and end <= len(body) else None


def _classified(one: Ranked) -> str:
    value = f"{one.value:f}" if isinstance(one.value, float) else f"{int(one.value)}"
    return f"{value}:{one.place}:{one.label}" if one.label else f"{value}:{one.place}"


def _shape(tensor: Named) -> list[int]:
    return [len(tensor), len(tensor[0])] if isinstance(tensor, list) else list(tensor.shape)  # type: ignore[union-attr]


class OpenInference(Protocol):
    name = "open_inference"
    title = "Open Inference Protocol v2"
    prefixes = ("/v2",)
    paths = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")

    def begin(self, asked: Asked, sides: Sides, state: ModelState) -> Exchange:
        check_version(state, asked.version)
        return InferExchange(asked, sides, state)

    def status(self, refusal: Refusal) -> int:
        """Return 400 for what JSON holds: the protocol knows no 422."""
        return 400 if refusal.status == Unprocessable.status else refusal.status

    def routes(self, about: About) -> APIRouter:
        return routes(about)
