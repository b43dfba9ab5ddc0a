"""Made-up examples: the same each time, within their range, and different where a dtype allows it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.signature import ITEM_BYTES, TensorSpec
from service.tasks.adapters.made_up import blots, drawn

FLOATS = [dtype for dtype in ITEM_BYTES if "float" in dtype]
INTEGERS = [dtype for dtype in ITEM_BYTES if "int" in dtype]


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 9)])
def test_pictures_are_bytes_of_their_shape_the_same_each_time_and_no_two_alike(shape):
    pictures = blots(6, shape)
    assert (pictures.dtype, pictures.shape) == (torch.uint8, (6, *shape))
    assert torch.equal(pictures, blots(6, shape))
    assert len(pictures.flatten(1).unique(dim=0)) == 6
    assert torch.equal(pictures[:2], blots(2, shape))


@pytest.mark.parametrize("dtype", ITEM_BYTES)
@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_an_input_is_drawn_in_its_dtype_and_shape(dtype, shape):
    (array,) = drawn(5, [TensorSpec("x", dtype, shape)])
    assert (array.dtype, array.shape) == (getattr(torch, dtype), (5, *shape))
    assert array.isfinite().all()


SPECS = [
    TensorSpec("a", "float32", (4,)),
    TensorSpec("b", "int64", (), range=(0, 1000)),
    TensorSpec("c", "bfloat16", (2, 2), range=(0, 1)),
]


@given(st.integers(1, 6), st.integers(0, 6))
def test_a_smaller_draw_is_the_beginning_of_a_larger_one(count, more):
    for few, many in zip(drawn(count, SPECS), drawn(count + more, SPECS), strict=True):
        assert torch.equal(few, many[:count])


def test_no_two_examples_are_alike():
    for array in drawn(16, SPECS):
        assert len(array.flatten(1).unique(dim=0) if array.dim() > 1 else array.unique()) == 16


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_are_drawn_evenly_from_their_range(dtype):
    (array,) = drawn(4, [TensorSpec("x", dtype, (500,), range=(-2, 6))])
    assert (array.min() >= -2, array.max() <= 6) == (True, True)
    quarters = torch.histc(array.double().float(), bins=4, min=-2, max=6) / array.numel()
    assert (quarters - 0.25).abs().max() < 0.05


def test_floats_without_a_range_are_normal():
    (array,) = drawn(4, [TensorSpec("x", "float32", (1000,))])
    assert abs(array.mean()) < 0.1
    assert abs(array.std() - 1) < 0.1


@pytest.mark.parametrize(
    ("ends", "holds"),
    [
        ((100, math.inf), lambda x: (x >= 100).all()),
        ((-math.inf, -100), lambda x: (x <= -100).all()),
        ((-math.inf, math.inf), lambda x: (x.mean().abs() < 0.2).all()),
    ],
)
def test_a_range_with_one_end_is_kept_and_its_examples_differ(ends, holds):
    (array,) = drawn(8, [TensorSpec("x", "float32", (100,), range=ends)])
    assert holds(array)
    assert len(array.unique()) > 700


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_reach_both_ends_of_their_range(dtype):
    (array,) = drawn(4, [TensorSpec("x", dtype, (200,), range=(3, 7))])
    assert array.unique().tolist() == [3, 4, 5, 6, 7]


@pytest.mark.parametrize(("dtype", "least", "largest"), [("int8", -128, 127), ("uint8", 0, 255)])
def test_integers_may_have_the_whole_range_of_their_dtype(dtype, least, largest):
    (array,) = drawn(4, [TensorSpec("x", dtype, (10_000,), range=(least, largest))])
    assert (array.min(), array.max()) == (least, largest)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_without_a_range_are_rows_that_any_embedding_has(dtype):
    (array,) = drawn(4, [TensorSpec("x", dtype, (50,))])
    assert array.unique().tolist() == [0, 1]


def test_booleans_are_both():
    (array,) = drawn(4, [TensorSpec("x", "bool", (50,))])
    assert array.unique().tolist() == [False, True]


def test_to_draw_leaves_torchs_own_random_state_as_it_was():
    before = torch.get_rng_state()
    drawn(2, SPECS), blots(2, (3, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)
