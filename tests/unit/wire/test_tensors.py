"""Tensors are pieces of memory that lie where their signature says they do, whoever sends them on."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.signature import ALIGNMENT, ITEM_BYTES, TensorSpec, blocks
from service.wire.messages import Infer, Tensors

specs = st.builds(
    TensorSpec,
    name=st.just("x"),
    dtype=st.sampled_from(sorted(ITEM_BYTES)),
    shape=st.lists(st.integers(1, 5), max_size=3).map(tuple),
)


@given(st.lists(specs, min_size=1, max_size=5), st.integers(1, 5))
def test_blocks_are_laid_where_the_signature_looks_for_them(inputs, count):
    arrays = [bytes([1 + place]) * (count * spec.nbytes) for place, spec in enumerate(inputs)]
    tensors = Tensors.of(*arrays)
    places = list(blocks([spec.nbytes for spec in inputs], count))
    assert [bytes(tensors.data[start:end]) for start, end in places] == arrays
    assert all(start % ALIGNMENT == 0 for start, _ in places)
    assert tensors.nbytes == len(tensors.data) == places[-1][1]
    between = bytearray(tensors.data)
    for start, end in reversed(places):
        del between[start:end]
    assert not any(between)


def test_a_block_of_an_array_of_any_shape_is_its_bytes():
    scores, flags = np.arange(6, dtype=np.float32).reshape(1, 2, 3), np.array([[True, False]])
    tensors = Tensors.of(scores.data, flags.data)
    assert bytes(tensors.data) == scores.tobytes() + bytes(ALIGNMENT - scores.nbytes) + flags.tobytes()
    assert tensors.nbytes == ALIGNMENT + 2


@pytest.mark.parametrize(
    "array", [np.zeros((2, 3, 4), np.float64), np.zeros(3, np.float16), np.zeros((1, 1), np.bool_)]
)
def test_a_single_block_is_neither_copied_nor_joined(array):
    data = Tensors.of(array.data).data
    array.reshape(-1)[-1] = 1
    assert (data.ndim, data.itemsize, bytes(data)) == (1, 1, array.tobytes())


def test_no_arrays_are_no_bytes():
    assert (Tensors.of().nbytes, bytes(Tensors().data)) == (0, b"")


def test_they_are_equal_by_their_bytes_however_many_pieces_they_are_in():
    whole, parts = Tensors(b"abcd"), Tensors(b"ab", memoryview(b""), memoryview(b"cd"))
    assert whole == parts
    assert hash(whole) == hash(parts)
    assert whole != Tensors(b"abce")
    assert whole != Tensors(b"abcde")
    assert whole != b"abcd"
    assert Tensors(np.zeros((2, 2), np.float32).data) == Tensors(bytes(16))


def test_what_ray_pickles_comes_back_with_the_same_bytes():
    frame = Infer(7, "m", 2, 1.5, True, Tensors.of(memoryview(b"abc"), np.arange(4.0).data))
    again = pickle.loads(pickle.dumps(frame))
    assert again == frame
    assert bytes(again.tensors.data) == b"abc" + bytes(61) + np.arange(4.0).tobytes()
