"""Lines of numbers become rows of a dtype, or are refused by their line."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.errors import Malformed, Refusal, Unprocessable
from service.signature import TensorSpec
from service.tasks.inputs.csv_bodies import read_csv

X = TensorSpec("x", "float32", (3,))


@given(
    arrays.arrays(
        np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(-(2.0**99), 2.0**99, width=32)
    )
)
def test_what_numpy_writes_comes_back(array):
    file = io.BytesIO()
    np.savetxt(file, array, delimiter=",")
    found = read_csv(file.getvalue(), X, 64)
    assert found.dtype == np.float32
    assert np.array_equal(found, array)


@given(
    st.sampled_from(["uint8", "int8", "int16", "int32", "int64"]).flatmap(
        lambda dtype: arrays.arrays(dtype, st.tuples(st.integers(1, 6), st.just(2)))
    )
)
def test_whole_numbers_of_every_dtype_come_back(array):
    lines = "\r\n".join(",".join(map(str, row)) for row in array.tolist())
    found = read_csv(lines.encode(), TensorSpec("x", str(array.dtype), (2,)), 64)
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


@given(st.binary(max_size=60) | st.text('0123456789,.-e\r\n[]"tru ', max_size=60).map(str.encode))
def test_whatever_the_body_is_it_is_read_or_refused(body):
    try:
        found = read_csv(body, X, 64)
    except Refusal:
        pass
    else:
        assert found.shape[1:] == (3,)


@pytest.mark.parametrize(
    "body", [b"1,2,3", b"1,2,3\n", b"1,2,3\r\n", b"\n1,2,3\n\n", b" 1 , 2,\t3 \r\n", b"1.0,2e0,3.0E+0"]
)
def test_line_ends_and_white_space_are_passed_over(body):
    assert read_csv(body, X, 64).tolist() == [[1, 2, 3]]


def test_a_single_number_is_a_line():
    found = read_csv(b"1.5\n2\n", TensorSpec("x", "float64"), 64)
    assert (found.tolist(), found.shape) == ([1.5, 2], (2,))


def test_booleans_are_written_as_in_json():
    assert read_csv(b"true,false", TensorSpec("x", "bool", (2,)), 64).tolist() == [[True, False]]


@pytest.mark.parametrize("body", [b"", b"\n", b" \r\n\t\n"])
def test_without_a_line_there_is_no_example(body):
    assert read_csv(body, X, 64).shape == (0, 3)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"1,2", "Line 1 of the CSV body has 2 numbers; it must have 3"),
        (b"1,2,3\n1,2,3,4", "Line 2 of the CSV body has 4 numbers; it must have 3"),
        (b"a,b,c", "numbers of float32"),
        (b"1,,3", "numbers of float32"),
        (b"1,NaN,3", "numbers of float32"),
        (b"1,2,3]", "numbers of float32"),
        (b"1],[2,3,4", "numbers|Line"),
        (b'"1",2,3', "numbers of float32"),
        (b"1,1e39,3", "too large for float32"),
    ],
)
def test_a_line_that_does_not_fit_is_refused(body, words):
    with pytest.raises(Unprocessable, match=words):
        read_csv(body, X, 64)


@pytest.mark.parametrize("number", ["256", "-1", "1.0", "true", "1e2"])
def test_a_number_that_the_dtype_does_not_have_is_refused(number):
    with pytest.raises(Unprocessable, match="numbers of uint8"):
        read_csv(number.encode(), TensorSpec("x", "uint8"), 64)


def test_a_number_out_of_the_range_is_refused_and_named():
    spec = TensorSpec("x", "float32", (3,), range=(0, 1))
    with pytest.raises(Unprocessable, match=r"Instance 1, input x at \[2\]: 3\.0 is outside of the range"):
        read_csv(b"0,0.5,1\n0,0,3\n", spec, 64)


@pytest.mark.parametrize("body", ["1,2,3\ufeff".encode(), "\u0661,\u0662,\u0663".encode(), b"\xff\xfe1\x00"])
def test_what_is_not_ascii_is_refused(body):
    with pytest.raises(Malformed, match="ASCII"):
        read_csv(body, X, 64)


def test_of_too_many_lines_one_more_than_may_be_is_read_and_no_others():
    found = read_csv(b"1,2,3\n" * 5 + b"no numbers\n" * 10, X, 4)
    assert len(found) == 5
