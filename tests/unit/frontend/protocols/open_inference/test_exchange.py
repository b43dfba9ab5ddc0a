"""Where a request's JSON ends, and whether reading it stalls the others."""

from __future__ import annotations

import pytest

from service.errors import Malformed, ModelNotFound, Unprocessable
from service.frontend.protocols.open_inference.exchange import InferExchange, OpenInference
from service.frontend.protocols.protocol import LARGE_BYTES, Asked, Sides
from service.signature import Signature, TensorSpec
from service.tasks.inputs.tensor_bodies import TensorsInput
from service.tasks.outputs.nested import TensorsOutput
from service.tasks.outputs.results import Results
from service.wire.messages import ModelState

X, Y = TensorSpec("x", "float32", (2,)), TensorSpec("y", "float32", (2,))
STATE = ModelState("m", "ready", version="abc", task="tensor", signature=Signature((X,), (Y,)))
SIDES = Sides(TensorsInput({}, STATE.signature, 1), Results(STATE.signature), TensorsOutput())
LARGE = bytes(LARGE_BYTES)


def exchange(header: str | None = None, version: str = "") -> InferExchange:
    headers = {} if header is None else {"inference-header-content-length": header}
    begun = OpenInference().begin(Asked(headers, version=version), SIDES, STATE)
    assert isinstance(begun, InferExchange)
    return begun


@pytest.mark.parametrize(
    ("header", "body", "large"),
    [
        (None, LARGE, True),
        (None, LARGE[1:], False),
        (str(LARGE_BYTES), LARGE, True),
        (str(LARGE_BYTES), LARGE + LARGE, True),
        ("100", LARGE, False),
        ("0", LARGE, False),
        (str(LARGE_BYTES + 1), LARGE, False),
        ("many", LARGE, False),
    ],
)
def test_a_body_of_much_json_is_large_and_one_of_many_bytes_behind_it_is_not(header, body, large):
    assert exchange(header).is_large(body) is large


@pytest.mark.parametrize("header", ["", "-1", "+1", "1.0", "1e1", "many", "12", "9" * 5000, "\u0661", " 1"])
def test_a_length_that_is_none_or_beyond_the_body_is_refused(header):
    with pytest.raises(Malformed, match="Inference-Header-Content-Length") as raised:
        exchange(header).read(b"12345678901", 8)
    assert len(raised.value.detail) < 300


def test_of_a_million_requested_outputs_as_many_are_looked_at_as_there_are_and_one():
    inputs = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}], "outputs": [%s]}'
    body = inputs % b",".join([b'{"name": "y"}'] * 2 + [b'{"name": "none"}'] * 1000)
    with pytest.raises(Unprocessable, match="requested twice"):
        exchange().read(body, 8)


def test_a_time_of_any_length_is_a_time():
    request = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}], "parameters": %s}'
    for stated, seconds in ((b"1500000", 1.5), (b"0", None), (b"1" + b"0" * 400, 2**62 / 1e6)):
        asked = exchange()
        asked.read(request % (b'{"timeout": %s}' % stated), 8)
        assert asked.seconds == seconds


def test_versions_are_1_and_the_hash_of_the_content():
    for version in ("", "1", "abc"):
        exchange(version=version)
    with pytest.raises(ModelNotFound, match="has no version '2'"):
        exchange(version="2")
