"""Requests in each protocol that the server speaks, and the numbers of its answers."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import httpx
import numpy as np

from tests.support.server import Server

#: Where Vertex asks a server that was started with these variables.
VERTEX = {"AIP_PREDICT_ROUTE": "/vertex/predict", "AIP_HEALTH_ROUTE": "/vertex/health"}
JSON = {"Content-Type": "application/json"}
HEADER = "Inference-Header-Content-Length"

#: By numpy's name of a dtype.
DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
_NUMPY = {name: dtype for dtype, name in DATATYPES.items()}


class Body(NamedTuple):
    """A request: where it goes, its bytes, and its headers."""

    path: str
    content: bytes
    headers: dict[str, str]


class Tensor(NamedTuple):
    """An input of the Open Inference Protocol: in JSON as `data`, in binary as `raw`."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: Any
    raw: bytes = b""

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> Tensor:
        return cls(name, DATATYPES[str(array.dtype)], array.shape, array.reshape(-1).tolist(), array.tobytes())

    def json(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape), "data": self.data}

    def binary(self) -> dict[str, Any]:
        head = {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}
        return head | {"parameters": {"binary_data_size": len(self.raw)}}


def texts(*elements: bytes) -> bytes:
    """The bytes of BYTES."""
    return b"".join(struct.pack("<I", len(each)) + each for each in elements)


def files(*pictures: bytes, name: str = "image") -> Tensor:
    """Picture files as an input."""
    encoded = [base64.b64encode(each).decode() for each in pictures]
    return Tensor(name, "BYTES", [len(pictures), 1], encoded, texts(*pictures))


def v2_json(model: str, *inputs: Tensor, **more: Any) -> Body:
    """Tensors in JSON; `more` are further keys of the request."""
    content = json.dumps({"inputs": [each.json() for each in inputs]} | more).encode()
    return Body(f"/v2/models/{model}/infer", content, dict(JSON))


def v2_binary(model: str, *inputs: Tensor, **more: Any) -> Body:
    """Tensors as bytes behind the JSON; the answer is binary, too, unless `more` says otherwise."""
    parameters = {"parameters": {"binary_data_output": True}}
    head = json.dumps({"inputs": [each.binary() for each in inputs]} | parameters | more).encode()
    return Body(f"/v2/models/{model}/infer", b"".join([head, *(each.raw for each in inputs)]), {HEADER: str(len(head))})


def ask(server: Server, body: Body, **headers: str) -> httpx.Response:
    """Send a request; `headers` are further ones, with `_` for `-`."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(server.url + body.path, content=body.content, headers=body.headers | more, timeout=60)


def v2_tensors(answer: httpx.Response) -> dict[str, np.ndarray]:
    """The tensors of an answer, in JSON or in binary, by name."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get(HEADER, len(answer.content)))
    head, rest = json.loads(answer.content[:length]), answer.content[length:]
    found = {}
    for output in head["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            data: Any = np.array(output["data"], _NUMPY.get(output["datatype"], np.str_))
        else:
            raw, rest = rest[:size], rest[size:]
            assert len(raw) == size
            if output["datatype"] == "BYTES":
                data = np.array([each.decode() for each in elements(raw)])
            else:
                data = np.frombuffer(raw, _NUMPY[output["datatype"]])
        found[output["name"]] = data.reshape(output["shape"])
    assert rest == b""
    return found


def elements(data: bytes) -> list[bytes]:
    """The elements of BYTES."""
    found = []
    while data:
        (length,) = struct.unpack_from("<I", data)
        found.append(data[4 : 4 + length])
        assert len(found[-1]) == length
        data = data[4 + length :]
    return found


#: By protocol that takes `{"instances": …}`, the path for a model; Vertex and SageMaker ask the default model alone.
OF_INSTANCES: Mapping[str, Callable[[str], str]] = {
    "kserve_v1": lambda model: f"/v1/models/{model}:predict",
    "vertex": lambda model: VERTEX["AIP_PREDICT_ROUTE"],
    "sagemaker": lambda model: "/invocations",
}


def instances(protocol: str, model: str, *each: Any, **more: Any) -> Body:
    """Instances in JSON; `more` are further keys of the request."""
    content = json.dumps({"instances": list(each)} | more).encode()
    return Body(OF_INSTANCES[protocol](model), content, dict(JSON))
