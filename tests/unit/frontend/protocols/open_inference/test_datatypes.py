"""Elements come back from JSON and from bytes as they went out, of every datatype, or are refused."""

from __future__ import annotations

import json
import math
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.errors import Malformed, Refusal, Unprocessable
from service.frontend.protocols.open_inference.datatypes import NAMES, of_bytes, of_json, to_bytes, to_json
from service.signature import ITEM_BYTES, TensorSpec
from service.tasks.inputs.numbers import DTYPES, is_nested, nesting

NUMBERS = sorted(set(NAMES) - {"bytes"})
SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)


def values(dtype: str) -> st.SearchStrategy:
    """Elements of a dtype, as float32 where it is bfloat16: those of which the lower half is zero."""
    if dtype == "bfloat16":
        halves = st.integers(0, 0xFFFF).map(lambda bits: struct.unpack("<f", struct.pack("<I", bits << 16))[0])
        return halves.filter(math.isfinite)
    return arrays.from_dtype(DTYPES[dtype], allow_nan=False, allow_infinity=False)


@st.composite
def tensors(draw) -> tuple[TensorSpec, np.ndarray]:
    """Draw what an input is, and a batch of it."""
    dtype, shape = draw(st.sampled_from(NUMBERS)), draw(SHAPES)
    whole = (draw(st.integers(1, 5)), *shape)
    array = draw(arrays.arrays(DTYPES[dtype], whole, elements=values(dtype)))
    return TensorSpec("x", dtype, shape), array


def same(found: object, array: np.ndarray) -> bool:
    return isinstance(found, np.ndarray) and found.dtype == array.dtype and np.array_equal(found, array)


def test_every_dtype_has_a_name_and_no_two_have_one():
    assert NAMES.keys() == ITEM_BYTES.keys() | {"bytes"}
    assert len(set(NAMES.values())) == len(NAMES)


@given(tensors())
def test_numbers_come_back_from_their_bytes(drawn):
    spec, array = drawn
    raw = to_bytes(spec.dtype, array)
    assert len(raw) == len(array) * spec.nbytes
    assert same(of_bytes(spec, array.shape, memoryview(raw)), array)


@given(tensors(), st.booleans(), st.sampled_from([None, 1]))
def test_numbers_come_back_from_json_flat_and_nested(drawn, flat, indent):
    spec, array = drawn
    data = json.dumps(array.reshape(-1).tolist() if flat else array.tolist(), indent=indent).encode()
    assert same(of_json(spec, array.shape, data), array)


@given(tensors())
def test_an_answer_in_json_is_a_flat_list(drawn):
    _, array = drawn
    assert to_json(array).shape == (array.size,)


@given(tensors(), st.integers(-9, 9).filter(bool))
def test_a_byte_more_or_less_is_refused(drawn, more):
    spec, array = drawn
    raw = to_bytes(spec.dtype, array)
    raw = raw + bytes(more) if more > 0 else raw[:more]
    if len(raw) != array.size * ITEM_BYTES[spec.dtype]:
        with pytest.raises(Malformed, match=f"has {len(raw):,} bytes"):
            of_bytes(spec, array.shape, memoryview(raw))


@given(tensors(), st.data())
def test_lists_that_are_nested_in_another_way_are_refused(drawn, data):
    """As many numbers in other lists."""
    spec, array = drawn
    others = [shape for shape in reshaped(array.size) if len(shape) > 1 and shape != array.shape]
    if others:
        nested = json.dumps(array.reshape(data.draw(st.sampled_from(others))).tolist()).encode()
        with pytest.raises(Unprocessable, match="is not of the shape"):
            of_json(spec, array.shape, nested)


def reshaped(size: int) -> list[tuple[int, ...]]:
    """Shapes of two and three dimensions with as many elements."""
    pairs = [(n, size // n) for n in range(1, size + 1) if size % n == 0]
    return pairs + [(a, b // c, c) for a, b in pairs for c in range(1, b + 1) if b % c == 0]


@given(tensors(), st.integers(1, 3), st.booleans())
def test_a_number_more_or_less_is_refused(drawn, more, fewer):
    spec, array = drawn
    flat = array.reshape(-1).tolist()
    flat = flat[:-more] if fewer else flat + flat[:1] * more
    with pytest.raises(Unprocessable, match=f"has {len(flat)} elements; its shape has {array.size}"):
        of_json(spec, array.shape, json.dumps(flat).encode())


@given(st.sampled_from(NUMBERS), st.binary(max_size=40) | st.text('[],10.e-"{}:tru ', max_size=40).map(str.encode))
def test_whatever_the_data_is_it_is_read_or_refused(dtype, data):
    spec = TensorSpec("x", dtype, (2,))
    try:
        shape, said = of_json(spec, (2, 2), data).shape, ""
    except Refusal as refusal:
        shape, said = None, refusal.detail
    assert shape == (2, 2) or "input x" in said


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5).map(tuple))
def test_nesting_is_that_of_a_list_in_json(shape):
    nested = json.dumps(np.zeros(shape, int).tolist(), separators=(",", ":"))
    if 0 not in shape[:-1]:
        assert nesting(shape) == nested.replace("0", "").encode()
        assert is_nested(nested.encode(), shape)


ELEMENTS = st.lists(st.binary(max_size=20), max_size=6)


def packed(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in elements)


@given(ELEMENTS)
def test_elements_of_bytes_come_back(elements):
    spec = TensorSpec("image", "bytes", (1,))
    assert of_bytes(spec, (len(elements), 1), memoryview(packed(*elements))) == elements


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), min_size=1, max_size=6))
def test_texts_of_an_answer_are_read_as_they_were(labels):
    spec = TensorSpec("labels", "bytes", (1,))
    rows = [[label] for label in labels]
    raw = to_bytes("bytes", rows)
    assert of_bytes(spec, (len(labels), 1), memoryview(raw)) == [label.encode() for label in labels]
    assert to_json(rows) == labels
    for data in (labels, rows):
        assert of_json(spec, (len(labels), 1), msgspec.json.encode(data)) == labels


@given(ELEMENTS, st.binary(max_size=30))
def test_whatever_the_bytes_are_no_element_goes_beyond_them(elements, more):
    raw = packed(*elements) + more
    try:
        found = of_bytes(TensorSpec("image", "bytes"), (len(elements),), memoryview(raw))
    except Malformed:
        found = None
    assert more if found is None else packed(*found) == raw


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\x05\0\0\0abcd", "Element 0 of the input image goes on beyond"),
        (b"\x01\0\0\0a\xff\xff\xff\xff", "Element 1 of the input image goes on beyond"),
        (b"\x01\0\0\0a\x01\0", "Element 1 of the input image goes on beyond"),
        (b"\x01\0\0\0a", "has 1 elements; its shape has 2"),
        (b"", "has 0 elements; its shape has 2"),
        (packed(*[b""] * 100_000), "has more than 2 elements; its shape has 2"),
    ],
)
def test_bytes_of_which_the_lengths_do_not_add_up_are_refused(raw, words):
    with pytest.raises(Malformed, match=words):
        of_bytes(TensorSpec("image", "bytes", (1,)), (2, 1), memoryview(raw))


@pytest.mark.parametrize("number", [1.0, -2.5, 3.0e38, 2.0**-126, 0.0])
def test_bfloat16_is_the_upper_half_of_float32(number):
    spec = TensorSpec("x", "bfloat16")
    upper = struct.pack("<f", number)[2:]
    found = of_bytes(spec, (1,), memoryview(upper))
    assert found.dtype == np.float32
    assert struct.pack("<f", found[0])[2:] == upper
    assert struct.pack("<f", found[0])[:2] == b"\0\0"
    assert to_bytes("bfloat16", np.array([number], np.float32)) == upper


def test_not_a_number_and_infinities_pass_in_bytes():
    raw = np.array([np.nan, np.inf, -np.inf], np.float32).tobytes()
    found = of_bytes(TensorSpec("x", "float32"), (3,), memoryview(raw))
    assert np.isnan(found[0])
    assert found[1:].tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("dtype", "number"),
    [
        ("uint8", "256"),
        ("uint8", "-1"),
        ("int8", "128"),
        ("int16", "32768"),
        ("int32", "2147483648"),
        ("int64", "9223372036854775808"),
        ("int32", "1.0"),
        ("int32", "true"),
        ("bool", "1"),
        ("float32", "true"),
        ("float32", "1e39"),
        ("float16", "65520"),
        ("bfloat16", "3.4e39"),
        ("float32", "null"),
        ("float32", '"1"'),
        ("bytes", "1"),
    ],
)
def test_a_number_that_the_dtype_does_not_have_is_refused(dtype, number):
    with pytest.raises(Unprocessable, match="input x"):
        of_json(TensorSpec("x", dtype), (1,), f"[{number}]".encode())
