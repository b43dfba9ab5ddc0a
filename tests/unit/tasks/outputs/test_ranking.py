"""The highest elements, in order, with their places and labels."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.tasks.outputs.answer import Ranked
from service.tasks.outputs.ranking import highest

ARRAYS = arrays.arrays(
    st.sampled_from([np.float32, np.int32]),
    arrays.array_shapes(min_dims=1, max_dims=3, max_side=5),
    elements=st.integers(-3, 3),
)


def test_of_equal_ones_the_first_comes_first():
    assert highest(np.array([[1.5, 3, 1.5, 3]]), 3) == [[Ranked(3, 1), Ranked(3, 3), Ranked(1.5, 0)]]


def test_labels_are_those_of_the_places():
    (row,) = highest(np.array([[0.25, 0.5]]), 2, ["cat", "dog"])
    assert row == [Ranked(0.5, 1, "dog"), Ranked(0.25, 0, "cat")]


@given(ARRAYS, st.integers(1, 30))
def test_they_are_those_of_a_stable_sort_of_each_example(array, most):
    rows = array.reshape(len(array), -1).tolist()
    for found, row in zip(highest(array, most), rows, strict=True):
        expected = sorted(range(len(row)), key=lambda place: (-row[place], place))[:most]
        assert [each.place for each in found] == expected
        assert [each.value for each in found] == [row[place] for place in expected]


def test_a_single_number_is_its_own_highest():
    assert highest(np.array([4.0, 5.0]), 3) == [[Ranked(4.0, 0)], [Ranked(5.0, 0)]]


def test_more_than_any_tensor_has_are_all():
    assert len(highest(np.zeros((1, 4)), 10**30)[0]) == 4
