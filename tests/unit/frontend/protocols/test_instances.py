"""What TensorFlow Serving, KServe v1 and Vertex have in common."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest

from service.errors import Malformed, Refusal, Unprocessable
from service.frontend.protocols import instances
from service.frontend.protocols.instances import InstancesExchange
from service.frontend.protocols.protocol import Asked, Sides
from service.signature import Signature, TensorSpec
from service.tasks.inputs.tensor_bodies import TensorsInput
from service.tasks.outputs.classes import ClassesOutput
from service.tasks.outputs.nested import TensorsOutput
from service.tasks.outputs.results import Results
from service.wire.messages import ModelState

X, Y, Z = TensorSpec("x", "float32", (2,)), TensorSpec("y", "float32", (2,)), TensorSpec("z", "int64")
TENSORS = ModelState("m", "ready", task="tensor", signature=Signature((X,), (Y,)))
CLASSIFIER = ModelState(
    "c",
    "ready",
    task="classification",
    signature=Signature((X,), (TensorSpec("probabilities", "float32", (3,)), TensorSpec("ids", "int32", (3,)))),
    answer={"labels": ["cat", "dog", "cow"]},
)
CLASSES = [np.array([[0.5, 0.25, 0.25]], np.float32), np.array([[2, 0, 1]], np.int32)]


def exchange(state: ModelState = TENSORS) -> InstancesExchange:
    output = TensorsOutput() if state.task == "tensor" else ClassesOutput()
    sides = Sides(TensorsInput({}, state.signature, 1), Results(state.signature), output)
    return InstancesExchange(Asked({"content-type": "anything"}), sides, state)


def test_instances_are_those_of_predict_whatever_the_content_type_and_the_other_keys():
    body = b'\xef\xbb\xbf{"signature_name": "s", "instances": [[1, 2], {"x": [3, 4]}], "parameters": {"a": [1]}}'
    given = exchange().read(body, 8)
    assert given.count == 2
    assert given.items[0][0].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (b"", Malformed),
        (b"{", Malformed),
        (b'{"instances": [[1, 2]', Malformed),
        (b'{"instances": [[1, 2]]} x', Malformed),
        (b"[[1, 2]]", Unprocessable),
        (b"{}", Unprocessable),
        (b'{"instances": []}', Unprocessable),
        (b'{"instances": null}', Unprocessable),
        (b'{"instances": [[1]]}', Unprocessable),
        (b'{"instances": [[1, 2]], "parameters": 1}', Unprocessable),
        (b'{"instances": [[1, 2]], "parameters": {"top_k": 1}}', Unprocessable),
        (b'{"instances": [{"x": [1, 2], "x": [3, 4]}]}', Malformed),
    ],
)
def test_what_is_none_is_refused(body, refusal):
    with pytest.raises(refusal):
        exchange().read(body, 8)


def test_more_than_may_be_are_refused():
    with pytest.raises(Refusal, match="at most 8"):
        exchange().read(json.dumps({"instances": [[1, 2]] * 9}).encode(), 8)


def test_an_only_output_has_no_name_and_several_have():
    by = exchange()
    body, media_type, headers = by.write([np.array([[1.5, 2], [3, 4]], np.float32)], TENSORS)
    assert (json.loads(body), media_type, headers) == ({"predictions": [[1.5, 2], [3, 4]]}, b"application/json", ())
    two = msgspec.structs.replace(TENSORS, signature=Signature((X,), (Y, Z)))
    body, _, _ = exchange(two).write([np.array([[1.5, 2]], np.float32), np.array([7])], two)
    assert json.loads(body) == {"predictions": [{"y": [1.5, 2], "z": 7}]}


@pytest.mark.parametrize(("parameters", "count"), [("null", 3), ("{}", 3), ('{"top_k": 2}', 2), ('{"top_k": "1"}', 1)])
def test_top_k_of_the_parameters_counts_for_a_classifier(parameters, count):
    asked = exchange(CLASSIFIER)
    asked.read(b'{"instances": [[1, 2]], "parameters": %s}' % parameters.encode(), 8)
    body, _, _ = asked.write(CLASSES, CLASSIFIER)
    (prediction,) = json.loads(body)["predictions"]
    assert [each["label"] for each in prediction["classes"]] == ["cow", "cat", "dog"][:count]


@pytest.mark.parametrize("top_k", ["0", "101", "1.5", "true", '"many"', "[1]", "-1"])
def test_a_top_k_that_is_none_is_refused(top_k):
    with pytest.raises(Unprocessable, match="top_k"):
        exchange(CLASSIFIER).read(b'{"instances": [[1, 2]], "parameters": {"top_k": %s}}' % top_k.encode(), 8)


def test_json_has_arrays_as_lists_and_what_is_no_number_as_null():
    content = [np.array([1.5, math.nan, math.inf], np.float32), np.float32(2), None]
    assert json.loads(instances.json(content)) == [[1.5, None, None], 2, None]
