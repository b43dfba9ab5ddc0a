"""T: the same faults over every protocol that can say them, told in its own form, before any batch; and T10.

Requests to Vertex and SageMaker go to the default model, so two servers share the rows: one whose default model takes a
row of numbers, and one whose takes pictures.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import math
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack

import httpx
import numpy as np
import pytest
from PIL import Image

from service.frontend.protocols.open_inference.request import MOST_ID
from tests.faults.test_tensors import CODE, FLAG, GOOD, MOODY, NESTED, PAIR, UNRANGED, deep, npy, npz
from tests.support.last_byte import status_after_the_last_byte
from tests.support.models import TRIVIAL, TRIVIAL_CODE, make_models, photographs
from tests.support.protocols import (
    HEADER,
    JSON,
    OF_INSTANCES,
    VERTEX,
    Body,
    Tensor,
    files,
    instances,
    texts,
    v2_binary,
    v2_json,
    v2_tensors,
)
from tests.support.protocols import ask as ask_of
from tests.support.server import Server

NPY, NPZ, CSV = ({"Content-Type": kind} for kind in ("application/x-npy", "application/x-npz", "text/csv"))
JPEG = {"Content-Type": "image/jpeg"}
NAMED = TRIVIAL.replace("task =", f"labels = {[f'class {n}' for n in range(10)]}\ntask =").replace("'", '"')
GOOD_BODY = {
    "numbers": ("/predict", instances("kserve_v1", "", [1, 2, 3])),
    "pictures": ("/predict", Body("", photographs()[0], JPEG)),
}
Asking = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    root = tmp_path_factory.mktemp("protocols")
    cards = {"pair": PAIR, "moody": MOODY, "unranged": UNRANGED, "nested": NESTED}
    cards |= {dtype: FLAG.format(dtype) for dtype in ("bool", "uint8", "int64", "float16", "float64", "bfloat16")}
    folders = {
        "numbers": make_models(root / "numbers", **cards),
        "pictures": make_models(root / "pictures", trivial=NAMED),
    }
    for folder in folders["numbers"].iterdir():
        (folder / "nets.py").write_text(CODE)
    (root / "pictures" / "trivial" / "architecture.py").write_text(TRIVIAL_CODE)
    defaults = {"numbers": "moody", "pictures": "trivial"}
    with ExitStack() as stack:
        found = {
            name: stack.enter_context(Server(folder, "--default-model", defaults[name], environment=VERTEX))
            for name, folder in folders.items()
        }
        for server in found.values():
            server.started()
        yield found
        for server in found.values():
            assert server.settled("gradless_engine_restarts_total") == 0
            assert server.events("predict failed") == []
            assert server.stop() == 0


@pytest.fixture
def ask(servers):
    """Asks a server by its name; at the end each that was asked still answers /predict."""
    asked = set()

    def send(name: str, body: Body, **headers: str) -> httpx.Response:
        asked.add(name)
        return ask_of(servers[name], body, **headers)

    yield send
    for name in asked:
        path, good = GOOD_BODY[name]
        assert ask_of(servers[name], good._replace(path=path)).status_code == 200


def refusal(answer: httpx.Response, *statuses: int) -> str:
    """The words of a refusal in the form that all protocols but our own have."""
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    assert answer.headers["content-type"] == "application/json"
    said = answer.json()
    assert list(said) == ["error"]
    assert "\n" not in said["error"]
    assert 0 < len(said["error"]) < 600
    return said["error"]


def bent(body: Body, change: Callable[[dict], object], rest: bytes | None = None, **headers: str) -> Body:
    """A binary request of v2 with a change of its JSON; `rest` stands for the bytes behind it."""
    length = int(body.headers[HEADER])
    head = json.loads(body.content[:length])
    change(head)
    text = json.dumps(head).encode()
    content = text + (body.content[length:] if rest is None else rest)
    return body._replace(content=content, headers={HEADER: str(len(text))} | headers)


IDS = Tensor.of("ids", np.array([[0, 5, 9], [1, 2, 3]], np.int32))
X = Tensor.of("x", np.array([[0.5, -1, 2e3], [1, 2, 3]], np.float32))
ROW = Tensor.of("x", np.array([[1, 2, 3]], np.float32))
FORMS = {"JSON": v2_json, "binary": v2_binary}
PICTURE = base64.b64encode(photographs()[0]).decode()

#: One good request by each protocol, and by each kind of body that it knows.
EACH = {
    "v2 JSON": ("numbers", v2_json("pair", IDS, X)),
    "v2 binary": ("numbers", v2_binary("pair", IDS, X)),
    "v2 raw": ("numbers", Body("/v2/models/moody/infer", ROW.raw, {HEADER: "0"})),
    "v2 pictures": ("pictures", v2_binary("trivial", files(*photographs()[:2]))),
    "KServe v1": ("numbers", instances("kserve_v1", "pair", GOOD)),
    "Vertex": ("numbers", instances("vertex", "moody", [1, 2, 3])),
    "SageMaker JSON": ("numbers", instances("sagemaker", "moody", {"x": [1, 2, 3]})),
    "SageMaker list": ("numbers", Body("/invocations", b" [[1, 2, 3]] ", JSON)),
    "SageMaker CSV": ("numbers", Body("/invocations", b"1,2,3\n4,5,6\n", CSV)),
    "SageMaker npy": ("numbers", Body("/invocations", npy(np.ones((1, 3), np.float32)), NPY)),
    "SageMaker npz": ("numbers", Body("/invocations", npz(x=np.ones((1, 3), np.float32)), NPZ)),
    "SageMaker picture": ("pictures", Body("/invocations", photographs()[0], JPEG)),
    "Hugging Face": ("pictures", Body("/hf/trivial", photographs()[0], JPEG)),
    "Hugging Face JSON": ("pictures", Body("/hf/trivial", json.dumps({"inputs": PICTURE}).encode(), JSON)),
}


@pytest.mark.parametrize("kind", EACH)
def test_what_the_others_spoil_is_right_in_every_protocol(ask, kind):
    assert ask(*EACH[kind]).status_code == 200


# T1

_Y = Tensor("y", "FP32", [2, 3], [0] * 6, bytes(24))
#: By name: the inputs, the status, and what is said of them.
UNFIT = {
    "missing": ([IDS], 400, ["input x is missing", "ids, x"]),
    "none": ([], 400, ["is missing", "ids, x"]),
    "one too many": ([IDS, X, _Y], 400, ["'y' is not an input", "ids, x"]),
    "twice": ([IDS, X, X], 400, ["x is there twice"]),
    "wrong datatype": ([IDS._replace(datatype="INT64"), X], 400, ["ids is INT64", "must be INT32", "[-1, 3]"]),
    "no such datatype": ([IDS, X._replace(datatype="float32")], 400, ["x is float32", "must be FP32"]),
    "text": ([IDS, X._replace(datatype="BYTES", data=["a"] * 6)], 400, ["x is BYTES", "must be FP32"]),
    "wrong shape": ([IDS, Tensor.of("x", np.zeros((2, 4), np.float32))], 400, ["x is FP32", "[2, 4]", "[-1, 3]"]),
    "one dimension more": ([IDS, X._replace(shape=[2, 3, 1])], 400, ["[2, 3, 1]", "[-1, 3]"]),
    "no batch": ([IDS, Tensor.of("x", np.zeros(3, np.float32))], 400, ["x is FP32 of shape [3]", "[-1, 3]"]),
    "no dimension": ([IDS, X._replace(shape=[])], 400, ["length >= 1"]),
    "other counts": ([IDS, Tensor.of("x", np.zeros((3, 3), np.float32))], 400, ["ids has 2, x has 3"]),
    "negative": ([IDS, X._replace(shape=[-2, 3])], 400, [">= 0"]),
    "negative twice": ([IDS, X._replace(shape=[-2, -3])], 400, [">= 0"]),
    "huge count": ([IDS, X._replace(shape=[1 << 40, 3])], 413, ["1099511627776 examples", "at most 64"]),
    "huge dimension": ([IDS, X._replace(shape=[2, 1 << 62])], 400, ["[2, 4611686018427387904]"]),
    "product past 2**63": ([IDS, X._replace(shape=[1 << 62, 1 << 62])], 400, ["[-1, 3]"]),
    "dimension past 2**64": ([IDS, X._replace(shape=[2, 1 << 70])], 400, ["x"]),
    "fraction": ([IDS, X._replace(shape=[2, 3.5])], 400, ["expected `int`"]),
    "more than its data": ([IDS, X._replace(data=X.data[:5], raw=X.raw[:20])], 400, ["x has 5 el|x has 20 bytes"]),
    "less than its data": ([IDS, X._replace(data=[*X.data, 1], raw=X.raw + bytes(4))], 400, ["x has 7 el|x has 28 b"]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", UNFIT)
def test_t1_v2_says_which_input_does_not_fit_what_was_found_and_what_is_wanted(ask, case, form):
    inputs, status, words = UNFIT[case]
    said = refusal(ask("numbers", FORMS[form]("pair", *inputs)), status)
    for each in words:
        assert any(word.lower() in said.lower() for word in each.split("|")), said


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (files(photographs()[0])._replace(datatype="FP32"), ["image is FP32", "BYTES of shape [-1, 1]", "UINT8"]),
        (files(photographs()[0])._replace(name="picture"), ["'picture' is not an input", "image"]),
        (files(photographs()[0])._replace(shape=[1, 2]), ["image is BYTES of shape [1, 2]"]),
        (Tensor.of("image", np.zeros((1, 3, 32, 31), np.uint8)), ["[1, 3, 32, 31]", "UINT8 of shape [-1, 3, 32, 32]"]),
    ],
    ids=["datatype", "name", "shape", "uint8 shape"],
)
def test_t1_v2_says_so_of_a_picture_too(ask, tensor, words, form):
    said = refusal(ask("pictures", FORMS[form]("trivial", tensor)), 400)
    for each in words:
        assert each in said


#: Instances that do not fit a model of one input, and of two.
UNFIT_INSTANCES = {
    "missing": ([{}], ["Instance 0", "missing required field `x`"]),
    "one too many": ([{"x": [1, 2, 3], "y": 1}], ["Instance 0", "unknown field `y`"]),
    "short": ([[1, 2, 3], [1, 2]], ["Instance 1, input x", "float32 of shape (3,)"]),
    "long": ([{"x": [1, 2, 3, 4]}], ["Instance 0, input x", "float32 of shape (3,)"]),
    "deep": ([{"x": [[1, 2, 3]]}], ["Instance 0, input x at [0]"]),
    "flat": ([1], ["Instance 0, input x"]),
    "text": ([["a", 1, 2]], ["Instance 0, input x at [0]"]),
}
UNFIT_PAIRS = {
    "missing": ([{"ids": [0, 5, 9]}], ["Instance 0", "missing required field `x`"]),
    "one too many": ([GOOD | {"y": 1}], ["Instance 0", "unknown field `y`"]),
    "short": ([GOOD, GOOD | {"ids": [0, 5]}], ["Instance 1, input ids", "int32 of shape (3,)"]),
    "deep": ([GOOD | {"x": [[0.5, 1, 2]]}], ["Instance 0, input x at [0]"]),
    "bare": ([[0, 5, 9]], ["Instance 0"]),
}
UNFIT_BODIES = {
    f"{protocol}, {case}": (instances(protocol, "moody", *each), words)
    for protocol in OF_INSTANCES
    for case, (each, words) in UNFIT_INSTANCES.items()
} | {
    f"two inputs, {case}": (instances("kserve_v1", "pair", *each), words) for case, (each, words) in UNFIT_PAIRS.items()
}


@pytest.mark.parametrize("case", UNFIT_BODIES)
def test_t1_instances_that_do_not_fit_are_told_by_instance_and_input(ask, case):
    body, words = UNFIT_BODIES[case]
    said = refusal(ask("numbers", body), 422)
    for word in words:
        assert word in said


TWICE = b'{"instances": [{"x": [1, 2, 3], "x": [4, 5, 6]}]}'


@pytest.mark.parametrize("protocol", OF_INSTANCES)
def test_t1_a_name_that_comes_twice_in_an_instance_is_refused(ask, protocol):
    body = instances(protocol, "moody")._replace(content=TWICE)
    assert "twice" in refusal(ask("numbers", body), 400)


@pytest.mark.parametrize("protocol", OF_INSTANCES)
@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"inputs": []}', 422),
        (b'{"instances": [[1, 2, 3', 400),
        (b"1", 422),
        (b'"a"', 422),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b'{"instances": 1}', 422),
        (b'{"instances": {}}', 422),
    ],
    ids=["no instances", "cut", "number", "text", "open", "bytes", "a number of instances", "an object of instances"],
)
def test_t1_what_is_not_a_list_of_instances_is_refused(ask, protocol, content, status):
    refusal(ask("numbers", instances(protocol, "moody")._replace(content=content)), status)


def test_t1_sagemaker_s_list_ends_where_it_ends(ask):
    """The list is put between braces of ours, out of which nothing else must come."""
    more = json.dumps([{"b64": PICTURE}]).encode() + b', "top_k": 3'
    refusal(ask("pictures", Body("/invocations", more, JSON)), 400, 422)
    again = b'[[1, 2, 3]], "instances": [[4, 5, 6]]'
    refusal(ask("numbers", Body("/invocations", again, JSON)), 400, 422)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"1,2\n", ["Line 1", "2 numbers", "must have 3"]),
        (b"1,2,3\n4,5,6,7\n", ["Line 2", "4 numbers"]),
        (b"1;2;3\n", ["Line 1", "1 numbers"]),
        (b"a,b,c\n1,2,3\n", ["float32"]),
        (b"1,,3\n", ["float32"]),
        (b"1,2,[3]\n", ["float32"]),
        (b"[[1,2,3]]\n", ["float32"]),
        (b'1,2,"3"\n', ["float32"]),
        (b"1," * 10**6 + b"1\n", ["Line 1", "1000001 numbers"]),
    ],
    ids=["few", "many", "semicolons", "names", "empty", "list", "lists", "text", "a million"],
)
def test_t1_csv_that_does_not_fit_is_told_by_line(ask, content, words):
    said = refusal(ask("numbers", Body("/invocations", content, CSV)), 422)
    for word in words:
        assert word in said


def test_t1_csv_is_refused_for_a_model_that_takes_pictures(ask):
    refusal(ask("pictures", Body("/invocations", b"1,2,3\n", CSV)), 415)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 4), np.float32), ["x is float32 of shape (2, 4)", "(N, 3)"]),
        (np.zeros((2, 3), np.float64), ["x is float64", "float32"]),
        (np.zeros(3, np.float32), ["x is float32 of shape (3,)"]),
        (np.float32(3), ["x is one float32"]),
        (np.array([["a", "b", "c"]]), ["<U1", "float32"]),
    ],
    ids=["shape", "dtype", "no batch", "0-d", "text"],
)
def test_t1_sagemaker_s_npy_that_does_not_fit_is_told(ask, array, words):
    said = refusal(ask("numbers", Body("/invocations", npy(array), NPY)), 422)
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("content", "headers", "statuses"),
    [
        (b"{}", JSON, {422}),
        (b'{"inputs": 1}', JSON, {422}),
        (b'{"inputs": [1, 2]}', JSON, {422}),
        (b'{"inputs": "?"}', JSON, {422}),
        (b'{"inputs": "QUJD"}', JSON, {422}),
        (b'{"inputs": ""}', JSON, {422}),
        (b'{"inputs": "QUJD', JSON, {400}),
        (b"no picture", JPEG, {422}),
        (b"1,2,3", CSV, {415}),
        (npy(np.zeros((1, 3), np.float32)), NPY, {415}),
    ],
    ids=["none", "number", "numbers", "no base64", "no picture", "empty", "cut", "text", "CSV", "npy"],
)
def test_t1_hugging_face_s_picture_that_is_none_is_refused(ask, content, headers, statuses):
    refusal(ask("pictures", Body("/hf/trivial", content, headers)), *statuses)


def test_t1_a_task_without_a_pipeline_is_told_so_over_hugging_face(ask):
    answer = ask("numbers", Body("/hf/moody", npy(np.ones((1, 3), np.float32)), NPY))
    assert "no pipeline for the task tensor" in refusal(answer, 422)


def test_t1_nothing_that_is_refused_has_come_into_a_batch(servers):
    server = servers["numbers"]
    before = server.settled("gradless_batch_size_sum")
    bodies = [form("pair", *inputs) for inputs, _, _ in UNFIT.values() for form in FORMS.values()]
    bodies += [body for body, _ in UNFIT_BODIES.values()]
    for body in bodies:
        assert 400 <= ask_of(server, body).status_code < 500
    assert server.settled("gradless_batch_size_sum") == before


# T2


def sized(value: object) -> Callable[[dict], None]:
    """Changes the `binary_data_size` of the second input."""

    def change(head: dict) -> None:
        head["inputs"][1]["parameters"]["binary_data_size"] = value

    return change


def flagged_with_data(head: dict) -> None:
    head["inputs"][1]["data"] = X.data


def without_a_size(head: dict) -> None:
    del head["inputs"][1]["parameters"]


def swapped(head: dict) -> None:
    head["inputs"][0]["parameters"]["binary_data_size"] = 12
    head["inputs"][1]["parameters"]["binary_data_size"] = 36


def unchanged(head: dict) -> None:
    pass


TWO = v2_binary("pair", IDS, X)
LENGTH = int(TWO.headers[HEADER])
#: A body each, and what is said of it.
BENT = {
    "negative": (bent(TWO, sized(-24)), "binary_data_size of the input x is -24"),
    "bool": (bent(TWO, sized(True)), "binary_data_size of the input x is True"),
    "text": (bent(TWO, sized("24")), "binary_data_size of the input x is 24"),
    "float": (bent(TWO, sized(24.0)), "binary_data_size of the input x is 24.0"),
    "list": (bent(TWO, sized([24])), "binary_data_size of the input x is [24]"),
    "too large": (bent(TWO, sized(25)), "the body has 24 bytes more"),
    "past 2**63": (bent(TWO, sized(1 << 63)), "the body has 24 bytes more"),
    "hundreds of digits": (bent(TWO, sized(10**400)), "the body has 24 bytes more"),
    "too small": (bent(TWO, sized(23)), "x has 23 bytes; of its shape and datatype it has 24"),
    "zero": (bent(TWO, sized(0)), "x has 0 bytes"),
    "null": (bent(TWO, sized(None)), "either data or the parameter binary_data_size"),
    "swapped": (bent(TWO, swapped), "ids has 12 bytes"),
    "bytes left": (bent(TWO, unchanged, IDS.raw + X.raw + b"!"), "1 bytes of the body belong to no input"),
    "a megabyte left": (bent(TWO, unchanged, IDS.raw + X.raw + bytes(10**6)), "1,000,000 bytes of the body belong"),
    "bytes cut": (bent(TWO, unchanged, (IDS.raw + X.raw)[:-1]), "the body has 23 bytes more"),
    "no bytes": (bent(TWO, unchanged, b""), "the body has 0 bytes more"),
    "data beside": (bent(TWO, flagged_with_data), "either data or the parameter"),
    "neither": (bent(TWO, without_a_size), "either data or the parameter"),
    "header negative": (TWO._replace(headers={HEADER: "-1"}), HEADER),
    "header past the body": (TWO._replace(headers={HEADER: str(len(TWO.content) + 1)}), HEADER),
    "header far past the body": (TWO._replace(headers={HEADER: "9" * 5000}), HEADER),
    "header no number": (TWO._replace(headers={HEADER: "many"}), HEADER),
    "header with a point": (TWO._replace(headers={HEADER: f"{LENGTH}.0"}), HEADER),
    "header empty": (TWO._replace(headers={HEADER: ""}), HEADER),
    "header of one less": (TWO._replace(headers={HEADER: str(LENGTH - 1)}), "not valid JSON"),
    "header of one more": (TWO._replace(headers={HEADER: str(LENGTH + 1)}), "not valid JSON"),
    "header of all": (TWO._replace(headers={HEADER: str(len(TWO.content))}), "not valid JSON"),
    "no header": (TWO._replace(headers={}), "not valid JSON"),
    "raw for two inputs": (TWO._replace(headers={HEADER: "0"}), "holds one input, and the model takes ids, x"),
}


@pytest.mark.parametrize("case", BENT)
def test_t2_sizes_that_do_not_add_up_are_refused(ask, case):
    body, words = BENT[case]
    assert words in refusal(ask("numbers", body), 400)


def test_t2_a_header_past_a_body_that_is_json_alone_is_refused_too(ask):
    body = v2_json("pair", IDS, X)
    assert ask("numbers", body._replace(headers={HEADER: str(len(body.content))})).status_code == 200
    answer = ask("numbers", body._replace(headers={HEADER: str(len(body.content) + 1)}))
    assert HEADER in refusal(answer, 400)


@pytest.mark.parametrize("size", [1, 11, 13, 24])
def test_t2_a_raw_body_is_one_example_to_the_byte(ask, size):
    body = Body("/v2/models/moody/infer", bytes(size), {HEADER: "0"})
    assert f"x has {size} bytes; of its shape and datatype it has 12" in refusal(ask("numbers", body), 400)


def test_t2_some_inputs_in_json_and_some_in_bytes_are_read(ask):
    head = json.dumps({"inputs": [IDS.json(), X.binary()]}).encode()
    mixed = Body("/v2/models/pair/infer", head + X.raw, {HEADER: str(len(head))})
    assert ask("numbers", mixed).json() == ask("numbers", v2_json("pair", IDS, X)).json()


PAIR_OF_PICTURES = files(*photographs()[:2])
ONE, OTHER = photographs()[:2]


@pytest.mark.parametrize(
    "raw",
    [
        texts(ONE, OTHER)[:-1],
        texts(ONE) + b"\xff\xff\xff\xff" + OTHER,
        texts(ONE) + (len(OTHER) + 1).to_bytes(4, "little") + OTHER,
        texts(ONE) + b"\x01\x00",
        texts(ONE),
        b"",
        texts(ONE, OTHER, b""),
        texts(ONE, OTHER) + b"\x00",
        texts(ONE, OTHER, *[b""] * 10**5),
    ],
    ids=["cut", "4 GB", "one more", "half a length", "one", "none", "three", "a byte left", "a hundred thousand"],
)
def test_t2_bytes_whose_lengths_do_not_add_up_are_refused(ask, raw):
    said = refusal(ask("pictures", v2_binary("trivial", PAIR_OF_PICTURES._replace(raw=raw))), 400)
    assert "image" in said
    assert "element" in said.lower()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([PICTURE], "1 elements; its shape has 2"),
        ([PICTURE] * 3, "3 elements; its shape has 2"),
        ([PICTURE] * 10**5, "elements; its shape has 2"),
        ([PICTURE, "?"], "base64"),
        ([PICTURE, "ü"], "base64"),
        ([PICTURE, PICTURE[:-1]], "base64"),
        ([PICTURE, 1], "BYTES"),
        ([PICTURE, None], "BYTES"),
        ([[PICTURE, PICTURE], [PICTURE]], "BYTES"),
        ([[[PICTURE]], [[PICTURE]]], "BYTES"),
        (PICTURE, "BYTES"),
        ({}, "BYTES"),
    ],
    ids=["one", "three", "many", "no base64", "letters", "cut", "number", "null", "ragged", "deep", "bare", "object"],
)
def test_t2_texts_that_do_not_fit_are_refused(ask, data, words):
    if len(data) > 3:
        data = ["QUJD"] * len(data) if isinstance(data, list) else data
    said = refusal(ask("pictures", v2_json("trivial", PAIR_OF_PICTURES._replace(data=data))), 400)
    assert words in said


@pytest.mark.parametrize("form", FORMS)
def test_t2_a_bad_picture_among_good_ones_is_named(ask, form):
    body = FORMS[form]("trivial", files(photographs()[0], b"no picture", photographs()[1]))
    assert "Picture 1 of 3" in refusal(ask("pictures", body), 400)


def test_t2_a_boolean_is_a_byte_of_0_or_1(ask):
    right = Tensor("x", "BOOL", [3], [True, False, True], b"\1\0\1")
    assert v2_tensors(ask("numbers", v2_binary("bool", right)))["output"].tolist() == [True, False, True]
    assert "neither 0 nor 1" in refusal(ask("numbers", v2_binary("bool", right._replace(raw=b"\1\0\2"))), 400)
    body = Body("/models/bool/predict", npy(np.frombuffer(b"\1\0\2", np.bool_)), NPY)
    assert ask("numbers", body).status_code == 422


# T3

#: By dtype: a number in JSON that it does not have.
NOT_OF = [
    ("pair", "NaN"),
    ("pair", "Infinity"),
    ("pair", "-Infinity"),
    ("pair", "1e999"),
    ("pair", "1e39"),
    ("pair", "true"),
    ("pair", "null"),
    ("pair", '"1"'),
    ("float16", "65520"),
    ("bfloat16", "1e39"),
    ("float64", "1e999"),
    ("float64", "true"),
    ("int64", "9223372036854775808"),
    ("int64", "-9223372036854775809"),
    ("int64", "1.0"),
    ("int64", "1e3"),
    ("int64", "true"),
    ("uint8", "256"),
    ("uint8", "-1"),
    ("bool", "1"),
    ("bool", "null"),
]
KINDS = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float64": "FP64",
}
#: A number for the place of which another is put into JSON.
PLACE = 987654


def with_number(body: Body, number: str) -> Body:
    content = body.content.replace(str(PLACE).encode(), number.encode())
    assert content != body.content
    return body._replace(content=content)


@pytest.mark.parametrize(("model", "number"), NOT_OF)
def test_t3_v2_refuses_a_number_that_the_datatype_does_not_have(ask, model, number):
    tensors = [IDS, X._replace(data=[*X.data[:-1], PLACE])]
    if model != "pair":
        tensors = [Tensor("x", KINDS[model], [2], [PLACE, PLACE])]
    said = refusal(ask("numbers", with_number(v2_json(model, *tensors), number)), 400)
    assert "x" in said or "JSON" in said


@pytest.mark.parametrize("protocol", OF_INSTANCES)
@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "1e39", "true", "null", '"1"', "[1]", "{}"])
def test_t3_so_do_the_protocols_of_instances(ask, protocol, number):
    body = instances(protocol, "moody", [1, 2, 3], {"x": [1, PLACE, 3]})
    refusal(ask("numbers", with_number(body, number)), 400, 422)


@pytest.mark.parametrize("number", ["1.0", "1e3", "true", "2147483648", "-2147483649"])
def test_t3_kserve_v1_refuses_numbers_that_are_no_int32(ask, number):
    refusal(ask("numbers", with_number(instances("kserve_v1", "pair", GOOD | {"ids": [1, PLACE, 3]}), number)), 422)


@pytest.mark.parametrize(("model", "number"), [each for each in NOT_OF if each[0] in KINDS])
def test_t3_kserve_v1_refuses_it_of_every_dtype(ask, model, number):
    refusal(ask("numbers", with_number(instances("kserve_v1", model, PLACE), number)), 400, 422)


@pytest.mark.parametrize("number", ["NaN", "nan", "inf", "Infinity", "1e39", "1e999", "true", "0x10", "1_0", "1 2"])
def test_t3_csv_holds_numbers_of_the_dtype_alone(ask, number):
    refusal(ask("numbers", Body("/invocations", f"1,{number},3\n".encode(), CSV)), 422)


@pytest.mark.parametrize(
    ("model", "number"),
    [("int64", 2**63 - 1), ("int64", -(2**63)), ("uint8", 255), ("bool", True), ("float64", 1.5), ("float16", 65504.0)],
)
def test_t3_the_last_number_that_a_datatype_has_comes_back(ask, model, number):
    tensor = Tensor.of("x", np.array([number, 0], model))
    for body in (v2_json(model, tensor), v2_binary(model, tensor)):
        found = v2_tensors(ask("numbers", body))["output"]
        assert found.tolist() == [number, 0]
        assert str(found.dtype) == ("float32" if "float" in model else model), "models compute in float32"
    assert ask("numbers", instances("kserve_v1", model, number)).json() == {"predictions": [number]}


def test_t3_not_a_number_passes_in_binary_as_it_does_in_npy(ask):
    bad = Tensor.of("x", np.array([np.nan]))
    assert "NaN" in refusal(ask("numbers", v2_binary("float64", bad)), 500), "what comes out is NaN, too"


@pytest.mark.parametrize(
    "data",
    [
        "[[1,2],[3,4,5,6]]",
        "[[1,2,3],[4,5],[6]]",
        "[[1,2,3,4,5,6]]",
        "[[1,2],[3,4],[5,6]]",
        "[[[1,2,3],[4,5,6]]]",
        "[1,2,3,[4,5,6]]",
        "[[1,2,3],4,5,6]",
        "[[1,2,3],[4,5,6],[]]",
        "[[1,2,3],[4,5,],[6]]",
        "[[1,2,3],[[4],5,6]]",
        '[[1,2,3],[4,5,"],["]]',
        "[[1,2,3],[4,5,6]",
        "[[1,2,3][4,5,6]]",
        "[[1,2,3],{}]",
    ],
)
def test_t3_v2_refuses_lists_that_are_not_nested_as_the_shape_is(ask, data):
    body = v2_json("pair", IDS, X._replace(data=PLACE))
    refusal(ask("numbers", with_number(body, data)), 400)


@pytest.mark.parametrize("data", ["[1,2,3,4,5,6]", "[[1,2,3],[4,5,6]]", " [ [1, 2,\n3] ,[4,5, 6]\t]"])
def test_t3_v2_reads_them_flat_and_nested(ask, data):
    body = with_number(v2_json("pair", IDS, X._replace(data=PLACE)), data)
    right = ask("numbers", v2_json("pair", IDS, X._replace(data=[1, 2, 3, 4, 5, 6])))
    assert ask("numbers", body).json() == right.json()


def nested(data: bytes, protocol: str) -> Body:
    """A million numbers for the model that takes them; `data` has the example's dimension, too."""
    if protocol == "kserve_v1":
        return Body("/v1/models/nested:predict", b'{"instances": ' + data + b"}", JSON)
    head = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2, 5, 10, 10, 10, 10, 10], "data": '
    return Body("/v2/models/nested/infer", head + data + b"}]}", JSON)


def million(last: bytes = b"1.5") -> bytes:
    return deep(last).removeprefix(b'{"instances": ').removesuffix(b"}")


ROW_OF_TEN = b"[" + b",".join([b"1.5"] * 10) + b"]"
RAGGED = ROW_OF_TEN[:-1] + b",1.5]"
#: What is wrong with a million numbers.
WRONG = {
    "first row": lambda data: data.replace(ROW_OF_TEN, RAGGED, 1),
    "last row": lambda data: RAGGED.join(data.rsplit(ROW_OF_TEN, 1)),
    "right count": lambda data: (ROW_OF_TEN[:-5] + b"]," + RAGGED).join(data.rsplit(ROW_OF_TEN + b"," + ROW_OF_TEN, 1)),
}
#: A million numbers of which the last is none, after all the others have been read.
LAST = {"true": b"true", "text": b'"1"', "null": b"null"}


@pytest.mark.parametrize("protocol", ["v2", "kserve_v1"])
def test_t3_a_million_numbers_nested_eight_deep_are_read(ask, protocol):
    assert ask("numbers", nested(million(), protocol)).status_code == 200


@pytest.mark.alone
@pytest.mark.parametrize("protocol", ["v2", "kserve_v1"])
@pytest.mark.parametrize("wrong", WRONG)
def test_t3_a_million_numbers_that_do_not_fit_are_refused_within_a_tenth_of_a_second(servers, wrong, protocol):
    body = nested(WRONG[wrong](million()), protocol)
    status, seconds = status_after_the_last_byte(servers["numbers"], body.path, body.content, "application/json")
    assert status == (400 if protocol == "v2" else 422)
    print(f"{protocol}, {wrong}: {seconds * 1000:.0f} ms")
    assert seconds < 0.1


@pytest.mark.parametrize("protocol", ["v2", "kserve_v1"])
@pytest.mark.parametrize("last", LAST)
def test_t3_a_million_numbers_of_which_the_last_is_none_are_refused(servers, last, protocol):
    """To read the others takes most of a tenth of a second, of which the time is printed alone."""
    body = nested(LAST[last].join(million().rsplit(b"1.5", 1)), protocol)
    status, seconds = status_after_the_last_byte(servers["numbers"], body.path, body.content, "application/json")
    assert status == (400 if protocol == "v2" else 422)
    print(f"{protocol}, {last}: {seconds * 1000:.0f} ms")


@pytest.mark.alone
@pytest.mark.parametrize(
    ("content", "status"), [(b"1.5,1.5,1.5\n" * 333_334, 413), (b"1.5,1.5,1.5\n" * 63 + b"1.5," * 10**6 + b"1\n", 422)]
)
def test_t3_a_million_numbers_of_csv_that_do_not_fit_are_refused_as_fast(servers, content, status):
    found, seconds = status_after_the_last_byte(servers["numbers"], "/invocations", content, "text/csv")
    print(f"{found}: {seconds * 1000:.0f} ms")
    assert found == status
    assert seconds < 0.1


def test_t3_a_million_numbers_in_json_of_which_a_header_states_the_length_are_read(servers):
    body = nested(million(), "v2")
    body = body._replace(headers={HEADER: str(len(body.content))})
    assert ask_of(servers["numbers"], body).status_code == 200


# T4


@pytest.mark.parametrize("bad", [-1, 10, 2**31 - 1])
def test_t4_v2_refuses_ids_beyond_the_range_and_names_them(ask, bad):
    ids = Tensor.of("ids", np.array([[0, 5, 9], [1, bad, 3]], np.int32))
    for form in FORMS.values():
        said = refusal(ask("numbers", form("pair", ids, X)), 400)
        assert f"Instance 1, input ids at [1]: {bad} is outside of the range [0, 9]" in said


def test_t4_without_a_range_ids_beyond_an_embedding_cost_their_own_request_alone(ask):
    def ids(bad):
        return Tensor.of("ids", np.array([[0, bad, 1]], np.int32))

    x = Tensor.of("x", np.array([[1, 2, 3]], np.float32))
    for form in FORMS.values():
        answers = [ask("numbers", form("unranged", ids(bad), x)) for bad in (5, 10, 9)]
        assert [answer.status_code for answer in answers] == [200, 500, 200]
        refusal(answers[1], 500)


# T5

CODINGS = {"gzip": lambda body: gzip.compress(body, mtime=0), "deflate": zlib.compress}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("kind", EACH)
def test_t5_a_coded_body_has_the_answer_of_the_body(ask, kind, coding):
    name, body = EACH[kind]
    coded = body._replace(content=CODINGS[coding](body.content))
    answer = ask(name, coded, Content_Encoding=coding)
    assert answer.status_code == 200, answer.text
    assert answer.content == ask(name, body).content


@pytest.mark.parametrize("kind", EACH)
def test_t5_a_coding_that_is_broken_or_unknown_is_refused(ask, kind):
    name, body = EACH[kind]
    for coding, undone in CODINGS.items():
        refusal(ask(name, body, Content_Encoding=coding), 400)
        refusal(ask(name, body._replace(content=undone(body.content)[:-5]), Content_Encoding=coding), 400)
    answer = ask(name, body, Content_Encoding="br")
    refusal(answer, 415)
    assert answer.headers["Accept-Encoding"] == "gzip, deflate"


BOMB = b" " * 100_000_000
BOMBS = {coding: undone(BOMB) for coding, undone in CODINGS.items()}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("kind", EACH)
def test_t5_a_bomb_of_a_thousand_to_one_is_refused_at_the_limit(ask, kind, coding):
    name, body = EACH[kind]
    assert len(BOMBS[coding]) * 1000 < len(BOMB)
    began = time.monotonic()
    said = refusal(ask(name, body._replace(content=BOMBS[coding]), Content_Encoding=coding), 413)
    assert "20,000,000 bytes once it is decompressed" in said
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("coding", CODINGS)
def test_t5_v2_codes_its_answers_for_whoever_accepts_that_from_some_size_on(ask, coding):
    small, large = (v2_binary("trivial", files(*[photographs()[0]] * count)) for count in (1, 20))
    plain = ask("pictures", large, Accept_Encoding="identity")
    assert "content-encoding" not in plain.headers
    coded = ask("pictures", large, Accept_Encoding=coding)
    assert coded.headers["content-encoding"] == coding
    assert int(coded.headers["content-length"]) < len(plain.content)
    assert coded.content == plain.content, "httpx has undone it"
    assert coded.headers[HEADER] == plain.headers[HEADER], "the length of the JSON before it was coded"
    assert "content-encoding" not in ask("pictures", small, Accept_Encoding=coding).headers


# T6


def shown(value: object) -> str:
    """A variant's name: of a number of hundreds of digits the first ones."""
    return str(value)[:12]


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([{"name": "logits"}], "'logits' is not an output of the model; it gives output"),
        ([{"name": "output"}, {"name": "logits"}], "'logits' is not an output"),
        ([{"name": "output"}] * 2, "requested twice"),
        ([{"name": "output"}] * 10**5, "requested twice"),
        ([{"name": ""}], "'' is not an output"),
        ([{"name": "o" * 10**6}], "is not an output"),
        ([{}], "name"),
        (["output"], "expected `object`"),
        ("output", "expected `array"),
        ([{"name": "output", "parameters": {"binary_data": "yes"}}], "binary_data must be true or false"),
        ([{"name": "output", "parameters": {"classification": -1}}], "classification of the output output"),
        ([{"name": "output", "parameters": {"classification": True}}], "classification of the output output"),
        ([{"name": "output", "parameters": {"classification": 1.5}}], "classification of the output output"),
        ([{"name": "output", "parameters": {"classification": "2"}}], "classification of the output output"),
    ],
)
def test_t6_requested_outputs_that_do_not_exist_or_come_twice_are_refused(ask, outputs, words):
    assert words.lower() in refusal(ask("numbers", v2_json("pair", IDS, X, outputs=outputs)), 400).lower()


@pytest.mark.parametrize("outputs", [None, [], [{"name": "output"}], [{"name": "output", "parameters": None}]])
def test_t6_requested_outputs_that_exist_come(ask, outputs):
    assert list(v2_tensors(ask("numbers", v2_json("pair", IDS, X, outputs=outputs)))) == ["output"]


def test_t6_outputs_come_in_the_order_and_the_form_in_which_they_are_requested(ask):
    wanted = [{"name": "labels"}, {"name": "probabilities", "parameters": {"binary_data": True}}]
    answer = ask("pictures", v2_json("trivial", files(photographs()[0]), outputs=wanted))
    assert list(v2_tensors(answer)) == ["labels", "probabilities"]
    head = json.loads(answer.content[: int(answer.headers[HEADER])])
    assert ["data" in output for output in head["outputs"]] == [True, False]
    overridden = [{"name": "ids", "parameters": {"binary_data": False}}]
    assert HEADER not in ask("pictures", v2_binary("trivial", files(photographs()[0]), outputs=overridden)).headers


STRANGE = {"priority": 3, "sequence_id": "a", "": None, "shape": [1, 2], "binary_data": {"x": [{}]}, "top": 1e300}


def test_t6_parameters_of_unknown_names_and_unknown_keys_are_passed_over(ask):
    right = ask("numbers", v2_json("pair", IDS, X)).json()
    strange = [each.json() | {"parameters": STRANGE, "colour": "red"} for each in (IDS, X)]
    outputs = [{"name": "output", "parameters": {"priority": [3]}, "colour": "red"}]
    content = {"inputs": strange, "outputs": outputs, "parameters": STRANGE, "model_name": "other", "raw": [1]}
    assert ask("numbers", Body("/v2/models/pair/infer", json.dumps(content).encode(), JSON)).json() == right
    strange_parameters = STRANGE | {"timeout": "soon"}
    for protocol in ("kserve_v1", "vertex"):
        body = instances(protocol, "moody", [1, 2, 3], parameters=strange_parameters, signature_name="serving_default")
        assert ask("numbers", body).status_code == 200
    body = Body("/hf/trivial", json.dumps({"inputs": PICTURE, "parameters": STRANGE, "options": {}}).encode(), JSON)
    assert ask("pictures", body).status_code == 200


@pytest.mark.parametrize("parameters", ["a", 1, [], [1]])
def test_t6_parameters_that_are_no_object_are_refused(ask, parameters):
    refusal(ask("numbers", v2_json("pair", IDS, X, parameters=parameters)), 400)
    for protocol in ("kserve_v1", "vertex"):
        refusal(ask("numbers", instances(protocol, "moody", [1, 2, 3], parameters=parameters)), 422)


@pytest.mark.parametrize("protocol", ["kserve_v1", "vertex", "hugging_face"])
@pytest.mark.parametrize("top_k", [0, -1, 101, 1.5, "many", True, [1], 10**400], ids=shown)
def test_t6_a_top_k_that_is_no_number_of_classes_is_refused(ask, protocol, top_k):
    if protocol == "hugging_face":
        content = json.dumps({"inputs": PICTURE, "parameters": {"top_k": top_k}}).encode()
        body = Body("/hf/trivial", content, JSON)
    else:
        body = instances(protocol, "trivial", {"b64": PICTURE}, parameters={"top_k": top_k})
    assert "top_k" in refusal(ask("pictures", body), 422)


def test_t6_top_k_of_a_model_without_classes_is_refused(ask):
    for protocol in ("kserve_v1", "vertex"):
        assert "top_k" in refusal(ask("numbers", instances(protocol, "moody", [1, 2, 3], parameters={"top_k": 3})), 422)


@pytest.mark.parametrize("form", FORMS)
def test_t6_an_id_comes_back_up_to_a_length_and_one_of_a_megabyte_is_refused(ask, form):
    for stated in ("42", "", "ü\n☃", '"}', "a" * MOST_ID):
        answer = ask("numbers", FORMS[form]("pair", IDS, X, id=stated))
        head = answer.content[: int(answer.headers.get(HEADER, len(answer.content)))]
        assert json.loads(head)["id"] == stated
    assert "id" not in ask("numbers", v2_json("pair", IDS, X)).json()
    for stated in ("a" * (MOST_ID + 1), "a" * 10**6, 42, ["a"]):
        assert "$.id" in refusal(ask("numbers", FORMS[form]("pair", IDS, X, id=stated)), 400)


def test_t6_an_id_that_no_text_can_hold_is_refused(ask):
    body = v2_json("pair", IDS, X, id=PLACE)
    refusal(ask("numbers", with_number(body, '"\\ud800"')), 400)
    refusal(ask("numbers", body._replace(content=body.content.replace(str(PLACE).encode(), b'"\xff"'))), 400)


def test_a_timeout_in_microseconds_that_passes_is_504_over_v2(ask):
    for form in FORMS.values():
        assert "deadline" in refusal(ask("numbers", form("pair", IDS, X, parameters={"timeout": 1})), 504)


@pytest.mark.parametrize("timeout", [0, 10**7, 2**63, 10**30, 10**400, None], ids=shown)
def test_a_timeout_that_is_long_or_none_at_all_lets_a_request_pass(ask, timeout):
    assert ask("numbers", v2_json("pair", IDS, X, parameters={"timeout": timeout})).status_code == 200


@pytest.mark.parametrize("timeout", [-1, -(10**400), 1.5, True, "1000", "soon", [1], {}], ids=shown)
def test_a_timeout_that_is_no_number_of_microseconds_is_refused(ask, timeout):
    said = refusal(ask("numbers", v2_json("pair", IDS, X, parameters={"timeout": timeout})), 400)
    assert "timeout must be a whole number of microseconds" in said


@pytest.mark.parametrize("kind", EACH)
def test_the_header_of_our_own_deadline_holds_over_every_protocol(ask, kind):
    name, body = EACH[kind]
    refusal(ask(name, body, X_Timeout_Ms="soon"), 400)
    assert ask(name, body, X_Timeout_Ms="20000").status_code == 200


# T7

_NONE = [Tensor("ids", "INT32", [0, 3], []), Tensor("x", "FP32", [0, 3], [])]
_MANY = [Tensor.of("ids", np.ones((65, 3), np.int32)), Tensor.of("x", np.ones((65, 3), np.float32))]
#: A server and a body without an example, or with one more than may be.
NONE = {
    "v2 JSON": ("numbers", v2_json("pair", *_NONE)),
    "v2 binary": ("numbers", v2_binary("pair", *_NONE)),
    "v2 files": ("pictures", v2_json("trivial", files())),
    "v2 binary files": ("pictures", v2_binary("trivial", files())),
    "v2 pixels": ("pictures", v2_binary("trivial", Tensor.of("image", np.zeros((0, 3, 32, 32), np.uint8)))),
    **{protocol: ("numbers", instances(protocol, "moody")) for protocol in OF_INSTANCES},
    **{f"{protocol} pictures": ("pictures", instances(protocol, "trivial")) for protocol in OF_INSTANCES},
    "SageMaker list": ("numbers", Body("/invocations", b"[]", JSON)),
    "SageMaker CSV": ("numbers", Body("/invocations", b"\r\n\r\n", CSV)),
    "SageMaker npy": ("numbers", Body("/invocations", npy(np.zeros((0, 3), np.float32)), NPY)),
}
MANY = {
    "v2 JSON": ("numbers", v2_json("pair", *_MANY)),
    "v2 binary": ("numbers", v2_binary("pair", *_MANY)),
    "v2 files": ("pictures", v2_json("trivial", files(*[b"file"] * 65))),
    "v2 binary files": ("pictures", v2_binary("trivial", files(*[b"file"] * 65))),
    "v2 pixels": ("pictures", v2_binary("trivial", Tensor.of("image", np.zeros((65, 3, 32, 32), np.uint8)))),
    **{protocol: ("numbers", instances(protocol, "moody", *[[1, 2, 3]] * 65)) for protocol in OF_INSTANCES},
    "SageMaker list": ("numbers", Body("/invocations", json.dumps([[1, 2, 3]] * 65).encode(), JSON)),
    "SageMaker CSV": ("numbers", Body("/invocations", b"1,2,3\n" * 65, CSV)),
    "SageMaker npy": ("numbers", Body("/invocations", npy(np.ones((65, 3), np.float32)), NPY)),
}


@pytest.mark.parametrize("kind", NONE)
def test_t7_a_batch_of_nothing_is_refused(ask, kind):
    name, body = NONE[kind]
    said = refusal(ask(name, body), 400 if kind.startswith("v2") else 422)
    assert "no instance" in said or "no picture" in said or "length >= 1" in said, said


@pytest.mark.parametrize("kind", MANY)
def test_t7_a_batch_over_the_limit_is_refused(ask, kind):
    name, body = MANY[kind]
    assert "at most 64" in refusal(ask(name, body), 413)


def test_t7_two_pictures_are_one_too_many_for_hugging_face(servers):
    parts = [("file", ("a.jpg", photographs()[0], "image/jpeg"))] * 2
    answer = httpx.post(f"{servers['pictures'].url}/hf/trivial", files=parts)
    assert "at most 1" in refusal(answer, 413)


def test_t7_a_batch_of_single_numbers_comes_back_in_order(ask):
    numbers = [float(number) for number in range(64)]
    tensor = Tensor.of("x", np.array(numbers))
    for form in FORMS.values():
        assert v2_tensors(ask("numbers", form("float64", tensor)))["output"].tolist() == numbers
    found = ask("numbers", instances("kserve_v1", "float64", *numbers)).json()
    assert found == {"predictions": numbers}
    raw = Body("/v2/models/float64/infer", np.float64(1.5).tobytes(), {HEADER: "0"})
    assert v2_tensors(ask("numbers", raw))["output"].tolist() == [1.5]


# T9

MOODS = [101, 102, 103, 104, 105]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mood", MOODS)
def test_t9_over_v2_an_answer_that_is_not_what_it_was_at_the_start_fails_its_own_example(ask, mood, form):
    def tensor(first):
        return Tensor.of("x", np.array([[first, 0, 0]], np.float32))

    assert "y" in refusal(ask("numbers", FORMS[form]("moody", tensor(mood))), 500)
    assert ask("numbers", FORMS[form]("moody", tensor(1))).status_code == 200


def test_t9_its_neighbours_in_the_batch_are_answered_whatever_they_speak(servers):
    def body(turn: int) -> Body:
        first = 101 if turn % 4 == 1 else turn
        tensor = Tensor.of("x", np.array([[first, 0, 0]], np.float32))
        makers = (v2_json, v2_binary, lambda model, _: instances("kserve_v1", model, [first, 0, 0]))
        return makers[turn % 3]("moody", tensor)

    async def scene():
        async with httpx.AsyncClient(timeout=30) as client:
            bodies = [body(turn) for turn in range(32)]
            url = servers["numbers"].url
            sent = (client.post(url + each.path, content=each.content, headers=each.headers) for each in bodies)
            return await asyncio.gather(*sent)

    statuses = [answer.status_code for answer in asyncio.run(scene())]
    assert statuses == [500 if turn % 4 == 1 else 200 for turn in range(32)]


# T10

PICTURES = photographs()[:10]


def sorted_classes(answer: httpx.Response) -> list[tuple[int, str, float]]:
    assert answer.status_code == 200, answer.text
    (prediction,) = answer.json()["predictions"]
    return [(each["id"], each["label"], each["probability"]) for each in prediction["classes"]]


def of_v2(answer: httpx.Response) -> list[tuple[int, str, float]]:
    found = v2_tensors(answer)
    assert [array.shape for array in found.values()] == [(1, 10)] * 3
    return list(
        zip(found["ids"][0].tolist(), found["labels"][0].tolist(), found["probabilities"][0].tolist(), strict=True)
    )


def of_list(answer: httpx.Response) -> list[tuple[int, str, float]]:
    assert answer.status_code == 200, answer.text
    (prediction,) = answer.json()
    return [(each["id"], each["label"], each["probability"]) for each in prediction["classes"]]


def of_pipeline(answer: httpx.Response) -> list[tuple[int, str, float]]:
    """A pipeline's answer has no ids; the labels have them."""
    assert answer.status_code == 200, answer.text
    return [(int(each["label"].removeprefix("class ")), each["label"], each["score"]) for each in answer.json()]


def by_classification(answer: httpx.Response) -> list[tuple[int, str, float]]:
    (row,) = v2_tensors(answer)["probabilities"].tolist()
    parts = [each.split(":") for each in row]
    return [(int(place), label, float(value)) for value, place, label in parts]


def encoded(picture: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(picture).decode()}


TOP = {"parameters": {"top_k": 10}}
CLASSIFIED = [{"name": "probabilities", "parameters": {"classification": 10, "binary_data": False}}]
#: By way of asking for a picture's ten classes: the body, and how its answer is read.
WAYS = {
    "native JSON": (
        lambda p: Body("/predict?top_k=10", json.dumps({"instances": [encoded(p)]}).encode(), JSON),
        sorted_classes,
    ),
    "v2 JSON": (lambda p: v2_json("trivial", files(p)), of_v2),
    "v2 binary": (lambda p: v2_binary("trivial", files(p)), of_v2),
    "v2 raw": (lambda p: Body("/v2/models/trivial/infer", p, {HEADER: "0"}), of_v2),
    "v2 of a version": (
        lambda p: v2_binary("trivial", files(p))._replace(path="/v2/models/trivial/versions/1/infer"),
        of_v2,
    ),
    "v2 classification": (lambda p: v2_binary("trivial", files(p), outputs=CLASSIFIED), by_classification),
    "KServe v1": (lambda p: instances("kserve_v1", "trivial", encoded(p), **TOP), sorted_classes),
    "Vertex": (lambda p: instances("vertex", "trivial", encoded(p), **TOP), sorted_classes),
    "SageMaker": (lambda p: Body("/invocations?top_k=10", p, JPEG), sorted_classes),
    "SageMaker JSON": (
        lambda p: Body("/invocations", json.dumps({"instances": [encoded(p)], "top_k": 10}).encode(), JSON),
        sorted_classes,
    ),
    "SageMaker list": (lambda p: Body("/invocations?top_k=10", json.dumps([encoded(p)]).encode(), JSON), of_list),
    "Hugging Face": (lambda p: Body("/hf/trivial?top_k=10", p, JPEG), of_pipeline),
    "Hugging Face JSON": (
        lambda p: Body("/hf/trivial", json.dumps({"inputs": encoded(p)["b64"]} | TOP).encode(), JSON),
        of_pipeline,
    ),
}


@pytest.fixture(scope="module")
def native_classes(servers):
    bodies = [Body("/predict?top_k=10", picture, JPEG) for picture in PICTURES]
    found = [sorted_classes(ask_of(servers["pictures"], body)) for body in bodies]
    assert len({str(each) for each in found}) == len(PICTURES), "different photographs have different answers"
    return found


@pytest.mark.parametrize("way", WAYS)
def test_t10_ten_pictures_have_the_same_classes_over_every_protocol(ask, native_classes, way):
    body, read = WAYS[way]
    for picture, native in zip(PICTURES, native_classes, strict=True):
        found = read(ask("pictures", body(picture)))
        assert [each[:2] for each in found] == [each[:2] for each in native]
        assert [each[2] for each in found] == pytest.approx([each[2] for each in native], rel=0, abs=1e-6)


def test_t10_a_decoded_picture_has_the_classes_of_its_file(ask):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    native = sorted_classes(ask("pictures", Body("/predict?top_k=10", file.getvalue(), {"Content-Type": "image/png"})))
    tensor = Tensor.of("image", np.ascontiguousarray(pixels.transpose(2, 0, 1))[None])
    for form in FORMS.values():
        found = of_v2(ask("pictures", form("trivial", tensor)))
        assert [each[:2] for each in found] == [each[:2] for each in native]
        assert [each[2] for each in found] == pytest.approx([each[2] for each in native], rel=0, abs=1e-6)


BATCHES = [np.random.default_rng(seed).normal(size=(3, 3)).astype(np.float32) for seed in range(10)]


def nested_in_json(array: np.ndarray) -> Body:
    return v2_json("moody", Tensor.of("x", array)._replace(data=array.tolist()))


def rows_of(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    found = answer.json()
    found = found if isinstance(found, list) else found["predictions"]
    return np.array([each["outputs"]["y"] if isinstance(each, dict) else each for each in found], np.float32)


def rows_of_csv(answer: httpx.Response) -> np.ndarray:
    assert answer.headers["content-type"] == "text/csv"
    return np.loadtxt(io.StringIO(answer.text), np.float32, delimiter=",")


def lines(array: np.ndarray) -> bytes:
    file = io.StringIO()
    np.savetxt(file, array, delimiter=",", newline="\r\n")
    return file.getvalue().encode()


#: By way of asking for a batch of rows: the body, and how its answer is read.
WAYS_OF_ROWS = {
    "native npy": (
        lambda a: Body("/predict", npy(a), NPY | {"Accept": NPY["Content-Type"]}),
        lambda answer: np.load(io.BytesIO(answer.content)),
    ),
    "v2 JSON": (lambda a: v2_json("moody", Tensor.of("x", a)), lambda answer: v2_tensors(answer)["y"]),
    "v2 nested": (nested_in_json, lambda answer: v2_tensors(answer)["y"]),
    "v2 binary": (lambda a: v2_binary("moody", Tensor.of("x", a)), lambda answer: v2_tensors(answer)["y"]),
    "KServe v1": (lambda a: instances("kserve_v1", "moody", *a.tolist()), rows_of),
    "KServe v1 by name": (lambda a: instances("kserve_v1", "moody", *[{"x": row} for row in a.tolist()]), rows_of),
    "Vertex": (lambda a: instances("vertex", "moody", *a.tolist()), rows_of),
    "SageMaker": (lambda a: instances("sagemaker", "moody", *a.tolist()), rows_of),
    "SageMaker list": (lambda a: Body("/invocations", json.dumps(a.tolist()).encode(), JSON), rows_of),
    "SageMaker CSV": (lambda a: Body("/invocations", lines(a), CSV), rows_of),
    "SageMaker CSV both ways": (
        lambda a: Body("/invocations", lines(a), CSV | {"Accept": "text/csv"}),
        rows_of_csv,
    ),
    "SageMaker npy": (
        lambda a: Body("/invocations", npy(a), NPY | {"Accept": NPY["Content-Type"]}),
        lambda answer: np.load(io.BytesIO(answer.content)),
    ),
}


@pytest.mark.parametrize("way", WAYS_OF_ROWS)
def test_t10_ten_batches_of_tensors_have_the_same_numbers_over_every_protocol(ask, way):
    body, read = WAYS_OF_ROWS[way]
    for batch in BATCHES:
        native = rows_of(ask("numbers", instances("kserve_v1", "", *batch.tolist())._replace(path="/predict")))
        found = read(ask("numbers", body(batch)))
        assert (found.shape, found.dtype) == ((3, 2), np.float32)
        assert np.abs(found - native).max() <= 1e-6


def test_a_classification_of_tensors_has_the_highest_elements_with_their_places(ask):
    batch = BATCHES[0]
    scores = v2_tensors(ask("numbers", v2_json("moody", Tensor.of("x", batch))))["y"]
    for most, binary in ((1, False), (2, True), (9, False)):
        parameters = {"classification": most, "binary_data": binary}
        body = v2_json("moody", Tensor.of("x", batch), outputs=[{"name": "y", "parameters": parameters}])
        found = v2_tensors(ask("numbers", body))["y"]
        order = np.argsort(-scores, 1)[:, :most]
        assert found.shape == (3, min(most, 2))
        assert [[int(each.split(":")[1]) for each in row] for row in found.tolist()] == order.tolist()
        values = [[float(each.split(":")[0]) for each in row] for row in found.tolist()]
        assert np.allclose(values, np.take_along_axis(scores, order, 1), rtol=0, atol=1e-6)
        assert math.prod(found.shape) == order.size


def test_a_classification_is_for_the_probabilities_of_a_classifier_alone(ask):
    for name in ("ids", "labels"):
        outputs = [{"name": name, "parameters": {"classification": 3}}]
        body = v2_json("trivial", files(photographs()[0]), outputs=outputs)
        assert "classification is for the output probabilities" in refusal(ask("pictures", body), 400)
