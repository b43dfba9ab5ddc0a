"""What a request's JSON means for a model, or why it means nothing."""

from __future__ import annotations

import json

import pytest

from service.errors import Malformed, Unprocessable
from service.frontend.protocols.open_inference.request import (
    MOST_ID,
    RequestInput,
    RequestOutput,
    Wanted,
    flag,
    read_request,
    spec_of,
    wanted_of,
)
from service.signature import TensorSpec

FILES = TensorSpec("image", "bytes", (1,)), TensorSpec("image", "bytes"), TensorSpec("image", "uint8", (3, 8, 8))
INPUT = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2]}


def read(**content: object) -> object:
    return read_request(json.dumps(content).encode())


def test_a_request_is_read_and_its_data_is_left_as_it_stands():
    request = read(inputs=[INPUT], id="7", parameters={"timeout": 5, "other": [1]}, outputs=[{"name": "y"}], more=1)
    (given,) = request.inputs
    assert (given.name, given.shape, given.datatype, bytes(given.data)) == ("x", [2, 3], "FP32", b"[1, 2]")
    assert (request.id, request.parameters["timeout"]) == ("7", 5)
    assert request.outputs == [RequestOutput("y")]


def test_what_may_be_left_out_or_null_is_none():
    request = read(inputs=[{"name": "x", "shape": [1], "datatype": "FP32"}], id=None, parameters=None, outputs=None)
    assert (request.id, request.parameters, request.outputs) == (None, None, None)
    assert bytes(request.inputs[0].data) == b""


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"inputs": None},
        {"inputs": {}},
        {"inputs": [1]},
        {"inputs": [INPUT | {"name": 1}]},
        {"inputs": [INPUT | {"shape": []}]},
        {"inputs": [INPUT | {"shape": [-1, 3]}]},
        {"inputs": [INPUT | {"shape": [1.0]}]},
        {"inputs": [INPUT | {"shape": [True]}]},
        {"inputs": [INPUT | {"shape": 3}]},
        {"inputs": [INPUT | {"datatype": None}]},
        {"inputs": [INPUT | {"parameters": 1}]},
        {"inputs": [INPUT], "id": 1},
        {"inputs": [INPUT], "id": "a" * (MOST_ID + 1)},
        {"inputs": [INPUT], "outputs": {}},
        {"inputs": [INPUT], "outputs": [{}]},
    ],
)
def test_what_is_of_another_shape_is_refused_and_the_right_one_shown(content):
    with pytest.raises(Unprocessable, match=r'the body must be {"inputs": '):
        read(**content)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"inputs": []}x', b"[" * 5000])
def test_what_is_not_json_is_refused(body):
    with pytest.raises((Malformed, Unprocessable)):
        read_request(body)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        (RequestInput("image", [4, 1], "BYTES"), 0),
        (RequestInput("image", [4], "BYTES"), 1),
        (RequestInput("image", [4, 3, 8, 8], "UINT8"), 2),
    ],
)
def test_an_input_is_the_form_that_fits_it(given, place):
    assert spec_of(given, FILES) is FILES[place]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (RequestInput("picture", [1], "BYTES"), "'picture' is not an input of the model; it takes image"),
        (RequestInput("image", [1, 2], "BYTES"), r"image is BYTES of shape \[1, 2\]; it must be BYTES of shape"),
        (RequestInput("image", [1, 3, 8, 8], "INT8"), r"image is INT8 .* or UINT8 of shape \[-1, 3, 8, 8\]"),
        (RequestInput("image", [3, 8, 8], "UINT8"), r"UINT8 of shape \[3, 8, 8\]; it must be"),
        (RequestInput("image", [1] * 10**6, "BYTES"), "it must be"),
        (RequestInput("i" * 10**6, [1], "BYTES"), "is not an input of the model"),
        (RequestInput("image", [1], "B" * 10**6), "it must be"),
    ],
)
def test_an_input_that_fits_none_is_told_with_those_that_there_are(given, words):
    with pytest.raises(Unprocessable, match=words) as raised:
        spec_of(given, FILES)
    assert len(raised.value.detail) < 600


def test_an_output_is_wanted_as_it_says_or_as_the_request_does():
    assert wanted_of(RequestOutput("y"), True, ["y"]) == Wanted("y", True)
    assert wanted_of(RequestOutput("y", {"binary_data": False}), True, ["y"]) == Wanted("y", False)
    assert wanted_of(RequestOutput("y", {"classification": 3}), False, ["y"]) == Wanted("y", False, 3)


@pytest.mark.parametrize(
    "output",
    [
        RequestOutput("z"),
        RequestOutput("y", {"binary_data": 1}),
        RequestOutput("y", {"classification": True}),
        RequestOutput("y", {"classification": -1}),
        RequestOutput("y", {"classification": "3"}),
    ],
)
def test_an_output_that_cannot_be_is_refused(output):
    with pytest.raises(Unprocessable):
        wanted_of(output, False, ["y"])


def test_a_flag_is_true_or_false_or_what_it_is_by_itself():
    assert flag({}, "f", True)
    assert not flag({"f": False}, "f", True)
    with pytest.raises(Unprocessable, match="f must be true or false"):
        flag({"f": "true"}, "f", True)
