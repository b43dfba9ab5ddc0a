"""`[inputs.NAME]` and `[outputs.NAME]`: what they say of a tensor, and what cannot be."""

import math

import pytest
import torch
from pydantic import ValidationError

from service.signature import ITEM_BYTES, TensorSpec
from service.tasks.inputs.tables import MOST_BYTES, InputTable, OutputTable
from service.validation import plain_words


def refused(table, **content):
    with pytest.raises(ValidationError) as caught:
        table(**content)
    [problem] = caught.value.errors()
    return plain_words(problem)


def test_a_table_says_all_of_its_tensor():
    table = InputTable(dtype="int64", shape=[2, 3], batch_axis=1, range=[0, 9])
    assert table.spec("ids") == TensorSpec("ids", "int64", (2, 3), 1, (0, 9))
    table = OutputTable(dtype="bfloat16", shape=[4], batch_axis=1, finite=False)
    assert table.spec("y") == TensorSpec("y", "bfloat16", (4,), 1, None, False)


def test_a_shape_alone_is_enough_and_may_be_that_of_a_single_number():
    assert InputTable(shape=[]).spec("x") == TensorSpec("x", "float32")
    assert OutputTable(shape=[7]).spec("y") == TensorSpec("y", "float32", (7,))


@pytest.mark.parametrize("table", [InputTable, OutputTable])
@pytest.mark.parametrize("dtype", ITEM_BYTES)
def test_every_dtype_of_the_signature_may_be_named(table, dtype):
    assert table(dtype=dtype, shape=[1]).spec("x").nbytes == ITEM_BYTES[dtype]


def test_up_to_eight_dimensions_are_taken():
    assert InputTable(shape=[1] * 8).spec("x").shape == (1,) * 8
    assert refused(InputTable, shape=[1] * 9) == "has more than 8 entries; leave some out"


@pytest.mark.parametrize("side", [0, -1])
def test_a_size_is_at_least_one(side):
    assert refused(InputTable, shape=[side]) == f"{side} is too small; it must be at least 1"


def test_the_batch_may_be_behind_the_last_axis_of_an_example_and_no_further():
    assert InputTable(shape=[3], batch_axis=1).spec("x").batch_axis == 1
    words = "batch_axis = 2 is beyond the 2 axes of a batch; give a number from 0 to 1"
    assert refused(InputTable, shape=[3], batch_axis=2) == words
    assert refused(OutputTable, shape=[3], batch_axis=2) == words


def test_an_example_has_a_limit_in_bytes():
    assert InputTable(dtype="float32", shape=[MOST_BYTES // 4]).spec("x").nbytes == MOST_BYTES
    words = "one example has 134,217,732 bytes; at most 134,217,728 are allowed"
    assert refused(InputTable, dtype="float32", shape=[MOST_BYTES // 4 + 1]) == words
    assert "one example has" in refused(InputTable, shape=[1 << 31] * 8)


@pytest.mark.parametrize("ends", [[3, 1], [math.nan, 1], [1, math.nan]])
def test_a_range_that_holds_no_number_is_refused(ends):
    low, high = ends
    words = f"range = [{low:g}, {high:g}] holds no number; give the least and the largest value"
    assert refused(InputTable, shape=[], range=ends) == words


@pytest.mark.parametrize(
    ("dtype", "ends"),
    [
        ("float32", [1, 1]),
        ("float32", [-math.inf, 0]),
        ("float16", [0, math.inf]),
        ("bfloat16", [0, 1e38]),
        ("int8", [-128, 127]),
        ("uint8", [0, 255]),
        ("bool", [0, 1]),
        ("int64", [0, 2**53]),
    ],
)
def test_a_range_that_a_dtype_holds_is_taken(dtype, ends):
    assert InputTable(dtype=dtype, shape=[], range=ends).spec("x").range == tuple(ends)


@pytest.mark.parametrize(
    ("dtype", "ends", "words"),
    [
        ("int64", [0.5, 3], "range ends at 0.5, which int64 does not hold; give whole numbers from -9.22337e+18 to "),
        ("int8", [0, 128], "range ends at 128, which int8 does not hold; give whole numbers from -128 to 127"),
        ("uint8", [-1, 3], "range ends at -1, which uint8 does not hold; give whole numbers from 0 to 255"),
        ("int32", [0, math.inf], "range ends at inf, which int32 does not hold; give whole numbers from "),
        ("bool", [0, 2], "range ends at 2, which bool does not hold; give whole numbers from 0 to 1"),
        ("float16", [0, 65505], "range ends at 65505, which float16 does not hold; give numbers from -65504 to 65504"),
    ],
)
def test_a_range_that_a_dtype_does_not_hold_is_refused(dtype, ends, words):
    assert refused(InputTable, dtype=dtype, shape=[], range=ends).startswith(words)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float16", "bfloat16", "float32"])
def test_a_dtype_holds_up_to_what_torch_says_and_no_more(dtype):
    kind = getattr(torch, dtype)
    largest = (torch.finfo if kind.is_floating_point else torch.iinfo)(kind).max
    assert InputTable(dtype=dtype, shape=[], range=[0, largest])
    assert "does not hold" in refused(InputTable, dtype=dtype, shape=[], range=[0, largest * 1.01 // 1])
