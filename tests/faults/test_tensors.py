"""T: tensors that do not fit, in JSON and in numpy's formats; and models that give other ones than they promised."""

from __future__ import annotations

import asyncio
import io
import time
import zipfile

import httpx
import numpy as np
import pytest

from tests.support.last_byte import status_after_the_last_byte
from tests.support.models import make_models
from tests.support.server import Server

#: Two inputs, one of ids with a range; a third model whose answers go by its input.
CODE = """\
import torch
from torch import nn


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.last = nn.Embedding(10, 4), nn.Linear(7, 2)

    def forward(self, ids, x):
        return self.last(torch.cat([self.rows(ids).mean(1), x], 1))


class Moody(nn.Module):
    \"\"\"Its first number says what is wrong with its answer; one bad example spoils its whole batch.\"\"\"

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 2)

    def forward(self, x):
        y = self.last(x)
        mood = float(x[:, 0].amax()) if len(x) else 0.0
        if mood == 101:
            return {"y": y[:, :1]}
        if mood == 102:
            return {"z": y}
        if mood == 103:
            return {"y": y.double()}
        if mood == 104:
            return {"y": y.where(x[:, :1] < 104, torch.nan)}
        if mood == 105:
            return {"y": None}
        return {"y": y}


def nested():
    return nn.Flatten()


def scalar():
    return nn.Identity()
"""
PAIR = """\
task = "tensor"
weights = "random:1"
architecture = "nets:Pair"
[inputs.ids]
dtype = "int32"
shape = [3]
range = [0, 9]
[inputs.x]
shape = [3]
"""
MOODY = """\
task = "tensor"
weights = "random:1"
architecture = "nets:Moody"
optimize = "eager"
[inputs.x]
shape = [3]
"""
#: The same with a package's kind of trouble: nobody said which ids there are.
UNRANGED = PAIR.replace("range = [0, 9]\n", "")
NESTED = """\
task = "tensor"
weights = "factory"
architecture = "nets:nested"
[inputs.x]
shape = [2, 5, 10, 10, 10, 10, 10]
"""
FLAG = 'task = "tensor"\nweights = "factory"\narchitecture = "nets:scalar"\n[inputs.x]\ndtype = "{}"\nshape = []\n'
GOOD = {"ids": [0, 5, 9], "x": [0.5, -1, 2e3]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    cards = {"pair": PAIR, "moody": MOODY, "unranged": UNRANGED, "nested": NESTED}
    cards |= {dtype: FLAG.format(dtype) for dtype in ("bool", "uint8", "int64", "float16", "float64")}
    models = make_models(tmp_path_factory.mktemp("tensors") / "models", **cards)
    for name in cards:
        (models / name / "nets.py").write_text(CODE)
    with Server(models, "--default-model", "pair") as running:
        yield running.started()
        assert running.settled("gradless_engine_restarts_total") == 0
        assert running.stop() == 0


def ask(server, model, body, kind="application/json"):
    content = body if isinstance(body, bytes) else str(body).encode()
    return httpx.post(
        f"{server.url}/models/{model}/predict", content=content, headers={"Content-Type": kind}, timeout=30
    )


def refused(server, model, body, status=422, kind="application/json"):
    """The words of a refusal, which came before any batch."""
    answer = ask(server, model, body, kind)
    assert answer.status_code == status, answer.text
    detail = answer.json()["detail"]
    assert "\n" not in detail
    assert len(detail) < 600
    return detail


def instances(*each):
    return httpx.Request("POST", "http://x", json={"instances": list(each)}).content


def npy(array, **more):
    file = io.BytesIO()
    np.save(file, array, **more)
    return file.getvalue()


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_what_the_others_spoil_is_right(server):
    assert ask(server, "pair", instances(GOOD, GOOD)).status_code == 200


# T1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            instances({"ids": [0, 5, 9]}),
            ["Instance 0", "missing required field `x`", "x must be float32"],
        ),
        (instances(GOOD | {"y": 1}), ["Instance 0", "unknown field `y`", "ids must be int32 of shape (3,)"]),
        (instances(GOOD, GOOD | {"ids": [0, 5]}), ["Instance 1, input ids", "of length 3", "int32 of shape (3,)"]),
        (instances(GOOD | {"ids": [0, 5, 9, 9]}), ["Instance 0, input ids", "of length 3"]),
        (instances(GOOD | {"x": [[0.5, 1, 2]]}), ["Instance 0, input x at [0]", "expected `float`, got `array`"]),
        (instances(GOOD | {"x": 1}), ["Instance 0, input x", "expected `array`, got `int`"]),
        (instances(GOOD | {"x": ["a", 1, 2]}), ["Instance 0, input x at [0]", "expected `float`, got `str`"]),
        (instances([0, 5, 9]), ["Instance 0", "expected `object`, got `array`"]),
        (b'{"inputs": []}', ["unknown field `inputs`", '{"instances": [{"ids": int32 of shape (3,)']),
        (b"[1, 2]", ["expected `object`, got `array`".capitalize(), "the body must be"]),
    ],
    ids=["missing", "unknown", "short", "long", "deep", "flat", "text", "bare", "no instances", "no object"],
)
def test_t1_json_that_does_not_fit_is_told_by_instance_and_input(server, body, words):
    detail = refused(server, "pair", body)
    for each in words:
        assert each in detail, detail


def test_t1_a_name_that_comes_twice_is_refused(server):
    body = b'{"instances": [{"ids": [1, 2, 3], "x": [1, 2, 3], "x": [4, 5, 6]}]}'
    assert "appears twice" in refused(server, "pair", body, 400)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"ids": np.zeros((2, 3), np.int32)}, ["The input x is missing", "ids, x"]),
        (
            {"ids": np.zeros((2, 3), np.int64), "x": np.zeros((2, 3), np.float32)},
            ["ids is int64", "(N, 3)"],
        ),
        ({"ids": np.zeros((2, 3), np.int32), "x": np.zeros((2, 4), np.float32)}, ["x is float32 of shape (2, 4)"]),
        ({"ids": np.zeros(3, np.int32), "x": np.zeros(3, np.float32)}, ["ids is int32 of shape (3,)", "(N, 3)"]),
        ({"ids": np.zeros((2, 3), np.int32), "x": np.zeros((3, 3), np.float32)}, ["ids has 2, x has 3"]),
        (
            {"ids": np.zeros((1, 3), np.int32), "x": np.zeros((1, 3), np.float32), "y": np.zeros(1)},
            ["'y' is not an input"],
        ),
        ({"ids": np.array([["a", "b", "c"]]), "x": np.zeros((1, 3), np.float32)}, ["<U1", "int32"]),
        ({"ids": np.int32(1), "x": np.zeros((1, 3), np.float32)}, ["ids is one int32"]),
    ],
    ids=["missing", "dtype", "shape", "no batch", "counts", "unknown", "text", "0-d"],
)
def test_t1_arrays_that_do_not_fit_are_told_by_input(server, arrays, words):
    detail = refused(server, "pair", npz(**arrays), kind="application/x-npz")
    for each in words:
        assert each in detail, detail


def header(shape, dtype="<f4", data=b""):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


@pytest.mark.parametrize(
    "body",
    [
        header("(-1, 3)"),
        header("(4611686018427387904, 3)"),
        header("(9223372036854775807, 9223372036854775807)"),
        header("(2, 3)", data=bytes(23)),
        header("(2, 3)", data=bytes(25)),
        header("(1, 3)", "|O", b"c__builtin__\nexit\n."),
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x93NUMPY\x09\x09" + bytes(50),
        b"PK\x03\x04",
        b"nothing of the kind",
        header("__import__('os').system('true')"),
        header("(" * 3000),
    ],
    ids=[
        "negative",
        "huge",
        "beyond 2**63",
        "short",
        "long",
        "pickle",
        "no header",
        "version",
        "zip",
        "text",
        "code",
        "deep",
    ],
)
def test_t1_a_file_that_is_not_what_its_header_says_is_refused(server, body):
    answer = ask(server, "moody", body, "application/x-npy")
    assert answer.status_code in (400, 422), answer.text
    assert ask(server, "pair", body, "application/x-npz").status_code in (400, 422)


def test_t1_a_zip_with_a_name_twice_or_a_bomb_in_it_is_refused(server):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("ids.npy", npy(np.zeros((1, 3), np.int32)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("ids.npy", npy(np.zeros((1, 3), np.int32)))
    assert "twice" in refused(server, "pair", file.getvalue(), 400, "application/x-npz")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ids.npy", header("(10000000, 3)", "<i4", bytes(120_000_000)))
    began = time.monotonic()
    assert "over the limit" in refused(server, "pair", file.getvalue(), 413, "application/x-npz")
    assert time.monotonic() - began < 5


def test_t1_other_byte_orders_and_fortran_s_order_are_read(server):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    answers = [
        ask(server, "moody", npy(each), "application/x-npy").json()
        for each in (x, x.astype(">f4"), np.asfortranarray(x))
    ]
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]["predictions"]) == 2


# T3


@pytest.mark.parametrize(
    ("model", "number", "words"),
    [
        ("pair", "NaN", None),
        ("pair", "Infinity", None),
        ("pair", "1e999", None),
        ("pair", "1e39", "too large for float32"),
        ("float16", "65520", "too large for float16"),
        ("float64", "1e999", None),
        ("int64", "9223372036854775808", ""),
        ("int64", "-9223372036854775809", ""),
        ("int64", "1.0", "got `float`"),
        ("int64", "1e3", "got `float`"),
        ("int64", "true", "got `bool`"),
        ("uint8", "256", "<= 255"),
        ("uint8", "-1", ">= 0"),
        ("bool", "1", "expected `bool`, got `int`"),
        ("float64", "true", "expected `float`, got `bool`"),
        ("float64", "null", "got `null`"),
    ],
)
def test_t3_a_number_that_the_dtype_does_not_have_is_refused(server, model, number, words):
    body = b'{"instances": [%s]}' % number.encode()
    if model == "pair":
        body = b'{"instances": [{"ids": [1, 2, 3], "x": [1, %s, 3]}]}' % number.encode()
    answer = ask(server, model, body)
    assert answer.status_code in ((400, 422) if words is None else (422,)), answer.text
    assert (words or "") in answer.json()["detail"]


@pytest.mark.parametrize(
    ("model", "number"),
    [("int64", 2**63 - 1), ("int64", -(2**63)), ("uint8", 255), ("bool", True), ("float64", 1), ("float16", 65504.0)],
)
def test_t3_the_last_number_that_a_dtype_has_comes_back(server, model, number):
    [found] = ask(server, model, instances(number)).json()["predictions"]
    assert found["outputs"]["output"] == number


def deep(last):
    """A million numbers, nested eight deep with the instances."""
    found = last
    for extent in (10, 10, 10, 10, 10, 5, 2):
        found = b"[" + b",".join([found] * extent) + b"]"
    return b'{"instances": [' + found + b"]}"


def test_t3_a_million_numbers_nested_eight_deep_are_read(server):
    assert ask(server, "nested", deep(b"1.5")).status_code == 200


@pytest.mark.alone
@pytest.mark.parametrize("where", ["first", "last"])
def test_t3_a_million_numbers_of_which_one_row_is_ragged_are_refused_within_a_tenth_of_a_second(server, where):
    row = b"[" + b",".join([b"1.5"] * 10) + b"]"
    ragged = row[:-1] + b",1.5]"
    body = deep(b"1.5")
    body = body.replace(row, ragged, 1) if where == "first" else ragged.join(body.rsplit(row, 1))
    status, seconds = status_after_the_last_byte(server, "/models/nested/predict", body, "application/json")
    assert status == 422
    print(f"the {where} row: {seconds * 1000:.0f} ms")
    assert seconds < 0.1


def test_t3_not_a_number_passes_in_npy_where_no_range_forbids_it(server):
    bad = np.array([[np.nan, 1, 2]], np.float32)
    assert ask(server, "moody", npy(bad), "application/x-npy").status_code == 500, "what comes out is NaN, too"
    assert ask(server, "float64", npy(np.array([np.inf])), "application/x-npy").status_code == 500


# T4


@pytest.mark.parametrize("bad", [-1, 10, 2**31 - 1])
def test_t4_ids_beyond_the_range_are_refused_and_named(server, bad):
    detail = refused(server, "pair", instances(GOOD, GOOD | {"ids": [0, bad, 1]}))
    assert f"Instance 1, input ids at [1]: {bad} is outside of the range [0, 9]" in detail


def test_t4_without_a_range_ids_beyond_an_embedding_cost_their_own_request_alone(server):
    answers = [ask(server, "unranged", instances(GOOD | {"ids": [0, bad, 1]})) for bad in (5, 10, 9)]
    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert answers[1].json()["type"].endswith("model_failed")


# T7


def test_t7_no_instances_too_many_and_none_of_the_batch_are_refused(server):
    refused(server, "pair", b'{"instances": []}')
    assert "at most 64" in refused(server, "pair", instances(*[GOOD] * 65), 413)
    empty = npz(ids=np.zeros((0, 3), np.int32), x=np.zeros((0, 3), np.float32))
    assert "no instance" in refused(server, "pair", empty, kind="application/x-npz")
    many = npy(np.zeros((65, 3), np.float32))
    assert "at most 64" in refused(server, "moody", many, 413, "application/x-npy")


def test_t7_more_instances_than_a_batch_holds_come_back_in_order(server):
    numbers = [float(number) for number in range(64)]
    found = ask(server, "float64", instances(*numbers)).json()["predictions"]
    assert [each["outputs"]["output"] for each in found] == numbers


# T9


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        (101, "float32 of shape (1, 1) as y for 1 example; it must return float32 of shape (1, 2)"),
        (102, "without 'y'"),
        (103, "float64 of shape (1, 2) as y"),
        (104, "NaN in y"),
        (105, "where it must return a tensor"),
    ],
    ids=["shape", "key", "dtype", "NaN", "None"],
)
def test_t9_an_answer_that_is_not_what_it_was_at_the_start_fails_its_own_example(server, mood, words):
    alone = ask(server, "moody", instances([mood, 0, 0]))
    assert alone.status_code == 500
    assert alone.json()["type"].endswith("model_output_invalid")
    assert words in alone.json()["detail"]
    assert ask(server, "moody", instances([1, 0, 0])).status_code == 200


@pytest.mark.parametrize("mood", [101, 102, 103, 104])
def test_t9_its_neighbours_in_the_batch_are_answered(server, mood):
    url = f"{server.url}/models/moody/predict"
    before = server.settled("gradless_batch_size_sum", model="moody")

    async def scene():
        async with httpx.AsyncClient(timeout=30) as client:
            bodies = [{"instances": [[mood if turn % 4 == 1 else turn, 0, 0]]} for turn in range(32)]
            return await asyncio.gather(*(client.post(url, json=body) for body in bodies))

    statuses = [answer.status_code for answer in asyncio.run(scene())]
    assert statuses == [500 if turn % 4 == 1 else 200 for turn in range(32)]
    assert server.settled("gradless_batch_size_sum", model="moody") > before
