"""Names, dtypes and shapes of a model's tensors: their bytes, and where they lie among one another."""

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.signature import ALIGNMENT, ITEM_BYTES, Signature, TensorSpec, blocks, digest, said_of_shape

SPECS = st.lists(
    st.builds(
        TensorSpec,
        st.just("x"),
        st.sampled_from(sorted(ITEM_BYTES)),
        st.lists(st.integers(1, 9), max_size=8).map(tuple),
    ),
    max_size=6,
)


@pytest.mark.parametrize("dtype", ITEM_BYTES)
def test_a_dtype_has_the_bytes_that_torch_gives_it(dtype):
    assert ITEM_BYTES[dtype] == torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    assert TensorSpec("x", dtype, (2, 3)).nbytes == torch.empty(2, 3, dtype=getattr(torch, dtype)).nbytes
    assert TensorSpec("x", dtype).is_floating == getattr(torch, dtype).is_floating_point


def test_a_single_number_is_one_element():
    assert TensorSpec("x", "float64").nbytes == 8


def test_an_example_has_the_bytes_of_its_inputs_alone():
    inputs = TensorSpec("a", "float32", (3,)), TensorSpec("b", "int64")
    assert Signature(inputs, (TensorSpec("c", "float64", (1000,)),)).example_bytes == 3 * 4 + 8


@given(SPECS, st.integers(0, 7))
def test_blocks_are_aligned_hold_every_example_and_do_not_overlap(specs, count):
    places = list(blocks([spec.nbytes for spec in specs], count))
    assert [end - start for start, end in places] == [count * spec.nbytes for spec in specs]
    assert all(start % ALIGNMENT == 0 for start, _ in places)
    last = 0
    for start, end in places:
        assert last <= start < last + ALIGNMENT, "no more than alignment needs lies between two"
        last = end


def test_one_block_begins_at_the_beginning():
    assert list(blocks([TensorSpec("x", "uint8", (5,)).nbytes], 3)) == [(0, 15)]


def test_a_signature_comes_back_as_it_was_sent():
    signature = Signature(
        (TensorSpec("a", "int64", (), range=(0, 9)), TensorSpec("b", "bfloat16", (2, 3), batch_axis=1)),
        (TensorSpec("c", "float32", (4,), finite=False),),
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(signature), type=Signature) == signature


def test_a_digest_is_short_and_the_same_for_the_same():
    found = digest("picture", {"resize": 8}, (TensorSpec("x", "uint8", (3, 8, 8)),))
    assert found == digest("picture", {"resize": 8}, (TensorSpec("x", "uint8", (3, 8, 8)),))
    assert len(found) == 12
    assert int(found, 16) >= 0


SPEC = TensorSpec("x", "float32", (2, 3), 1, (0.0, 1.0))
CHANGES = {"name": "y", "dtype": "float64", "shape": (3, 2), "batch_axis": 0, "range": (0.0, 2.0), "finite": False}


@pytest.mark.parametrize("field", TensorSpec.__struct_fields__)
def test_a_digest_changes_with_each_field_of_a_tensor(field):
    assert digest(SPEC) != digest(msgspec.structs.replace(SPEC, **{field: CHANGES[field]}))


def test_a_digest_changes_with_the_order_and_the_bounds_of_its_parts():
    found = [digest("a", "b"), digest("b", "a"), digest("a", "c"), digest("a"), digest("ab"), digest(("a", "b"))]
    assert len({*found}) == len(found)


@pytest.mark.parametrize(
    ("dtype", "shape", "words"),
    [
        ("float32", (3, 4), "float32 of shape (3, 4)"),
        ("int64", (3,), "int64 of shape (3,)"),
        ("bool", (), "one bool"),
    ],
)
def test_a_shape_is_written_as_torch_writes_it(dtype, shape, words):
    assert said_of_shape(dtype, shape) == words
