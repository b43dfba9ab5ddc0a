"""Outputs of one example in different company, each held against the first that was seen of it, and dropped."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.loader.comparison import CONTRAST_IN_TOLERANCES, Comparison, distance

TOLERANCE = 1e-5


def compared(*batches, tolerance=TOLERANCE):
    """Take in batches, each the numbers of its examples and its outputs."""
    comparison = Comparison(tolerance)
    for order, *outputs in batches:
        comparison.add(order, outputs)
    return comparison


def rows(*values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype)


def test_company_is_compared_with_the_first_that_was_seen():
    found = compared(((0,), rows([1.0, 4.0])), ((1, 0), rows([2.0, 2.0], [1.0, 3.0])))
    assert found.difference == pytest.approx(1 / 4)
    assert found.where == "input 2 of 2"
    assert (found.noise, found.examples) == (0, 2)


def test_what_stays_the_same_differs_in_nothing():
    batch = rows([1.0, 4.0], [2.0, 2.0])
    found = compared(((0, 1), batch), ((1, 0), batch.flip(0)), ((0, 1), batch))
    assert (found.difference, found.noise, found.where) == (0, 0, "")


def test_each_output_is_judged_on_its_own_scale():
    large, small = rows([1000.0]), rows([0.001])
    found = compared(((0,), large, small), ((0, 1), rows([1000.0], [1.0]), rows([0.0005], [0.0])))
    assert found.difference == pytest.approx(0.5), "a thousandth of the large output is all of the small one"
    found = compared(((0,), large), ((0, 1), rows([1000.0005], [1.0])))
    assert found.difference == pytest.approx(5e-7, rel=0.3)


def test_the_scale_is_that_of_the_largest_value_in_any_batch():
    found = compared(((0,), rows([1.0])), ((0, 1), rows([2.0], [-10.0])))
    assert found.difference == pytest.approx(0.1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_integers_are_equal_or_wholly_different(dtype):
    assert compared(((0,), rows([1], dtype=dtype)), ((0, 1), rows([1], [0], dtype=dtype))).difference == 0
    assert compared(((0,), rows([1], dtype=dtype)), ((0, 1), rows([0], [1], dtype=dtype))).difference >= 1


def test_an_integer_is_not_excused_by_larger_ones():
    assert compared(((0,), torch.tensor([[1000, 1]])), ((0, 1), torch.tensor([[1000, 2], [5, 5]]))).difference == 1


def test_large_integers_are_told_apart_where_float64_cannot():
    one, other = rows([2**62], dtype=torch.int64), rows([2**62 + 1], dtype=torch.int64)
    assert compared(((0,), one), ((0, 1), torch.cat([other, one]))).difference == 1


def with_arg_max(alone, company):
    """Scores of one example and their arg max, alone and in company."""
    (scores, best), (others, other) = alone, company
    return compared(
        ((0,), rows(scores), torch.tensor([best])), ((0, 1), rows(others, [9.0, 0, 0]), torch.tensor([other, 0]))
    )


def test_an_arg_max_may_differ_between_scores_within_the_tolerance():
    a_bit = 1 + 0.5 * TOLERANCE
    assert with_arg_max(([1.0, a_bit, 0.0], 1), ([a_bit, 1.0, 0.0], 0)).difference <= TOLERANCE


@pytest.mark.parametrize(
    ("scores", "alone", "company"),
    [
        ([1.0, 1 + 1e-3, 0.0], 1, 0),
        ([1.0, 1 + 0.5 * TOLERANCE, 0.0], 1, 2),
        ([1.0, 1 + 0.5 * TOLERANCE, 0.0], 2, 1),
    ],
    ids=["the scores differ by more", "in company it is not the best", "alone it is not the best"],
)
def test_an_arg_max_that_differs_otherwise_is_wrong(scores, alone, company):
    assert with_arg_max((scores, alone), (scores, company)).difference >= 1


def test_arg_maxes_by_place_are_ties_too():
    """As segmentation and tagging have them: one for each place of an example."""
    scores = torch.tensor([[[0.0, 1.0], [5.0, 5.0]]])
    company = torch.cat([scores, scores])
    tie = compared(((0,), scores, torch.tensor([[1, 0]])), ((0, 1), company, torch.tensor([[1, 1], [1, 1]])))
    assert tie.difference == 0
    wrong = compared(((0,), scores, torch.tensor([[1, 0]])), ((0, 1), company, torch.tensor([[0, 1], [1, 1]])))
    assert wrong.difference == 1


def test_integers_beyond_the_scores_are_no_tie():
    scores = rows([1.0, 1.0])
    found = compared(((0,), scores[None], torch.tensor([0])), ((0, 1), torch.stack([scores] * 2), torch.tensor([7, 0])))
    assert found.difference == 7


def test_repetition_of_the_same_batch_is_noise():
    found = compared(((0, 1), rows([1.0], [10.0])), ((0, 1), rows([2.0], [10.0])), ((1, 0), rows([10.0], [5.0])))
    assert found.noise == pytest.approx(0.1)
    assert found.difference == pytest.approx(0.4)


def test_noise_is_a_share_of_its_own_output():
    found = compared(((0,), rows([1000.0]), rows([0.1])), ((0,), rows([1000.0]), rows([0.2])))
    assert found.noise == pytest.approx(0.5)


def test_contrast_is_the_largest_share_between_examples_in_any_output():
    found = compared(((0, 1, 2), rows([1.0], [1.0], [1.0]), rows([4.0], [2.0], [3.0])))
    assert found.contrast == pytest.approx(0.5)
    assert compared(((0,), rows([4.0]))).contrast == 0


def test_outputs_that_hardly_differ_prove_nothing():
    wanted = CONTRAST_IN_TOLERANCES * TOLERANCE
    few = compared(((0, 1), rows([1.0], [1 - 0.5 * wanted])))
    assert few.inconclusive == "Different inputs differ by 5.0e-04 only; below 1e-03 the rule shows nothing."
    assert compared(((0, 1), rows([1.0], [1 - 2 * wanted]))).inconclusive == ""


def test_rows_are_the_first_output_of_each_example_where_that_is_a_vector():
    found = compared(((2, 0), rows([1.0, 2.0], [3.0, 4.0]), torch.tensor([7, 8])), ((1,), rows([5.0, 6.0])))
    assert found.rows.dtype == torch.float64
    assert found.rows.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert compared(((0,), torch.zeros(1, 2, 2))).rows.numel() == 0
    assert Comparison(TOLERANCE).rows.numel() == 0


def test_one_row_an_example_is_kept_however_many_batches_there_were():
    """A row is copied: a view would hold its whole batch in memory."""
    comparison, row = Comparison(TOLERANCE), 1 << 16
    for number in range(12):
        comparison.add((0, 1, 2 + number % 2), [torch.randn(3, row)])
    kept = len(pickle.dumps(comparison))
    assert comparison.examples == 4
    assert 4 * 4 * row <= kept <= 4 * 4 * row * 1.05


def test_what_is_kept_does_not_change_with_a_buffer_that_is_used_again():
    comparison, buffer = Comparison(TOLERANCE), rows([1.0], [2.0])
    comparison.add((0, 1), [buffer])
    buffer.fill_(9)
    comparison.add((1, 0), [rows([2.0], [1.0])])
    assert comparison.difference == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_number_that_becomes_none_is_infinitely_far_away(value):
    found = compared(((0,), rows([1.0])), ((0, 1), rows([value], [1.0])))
    assert found.difference == float("inf")
    assert compared(((0,), rows([value])), ((0, 1), rows([value], [1.0]))).difference == 0


def test_an_infinity_hides_no_difference_beside_it():
    found = compared(((0,), rows([torch.inf, 1.0])), ((0, 1), rows([torch.inf, 2.0], [-torch.inf, 4.0])))
    assert found.difference == pytest.approx(0.25)


def test_an_output_of_another_shape_is_infinitely_far_away():
    found = compared(((0,), torch.zeros(1, 3)), ((0, 1), torch.zeros(2, 4)))
    assert found.difference == float("inf")


def test_a_single_number_an_example_is_compared_as_others_are():
    found = compared(((0,), rows(4.0)), ((1, 0), rows(1.0, 3.0)))
    assert found.difference == pytest.approx(0.25)


def test_an_output_without_elements_never_differs():
    assert compared(((0,), torch.zeros(1, 0)), ((0, 1), torch.zeros(2, 0))).difference == 0


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool]
)
@given(st.integers(1, 50), st.integers(0, 5))
@settings(deadline=None)
def test_a_distance_is_the_same_however_it_is_cut_into_pieces(dtype, count, seed):
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randint(0, 3, (count,), generator=generator).to(dtype) for _ in range(2))
    whole = distance([one], [other])
    assert whole == (one.double() - other.double()).abs().max()
    assert whole == max(distance([a], [b]) for a, b in zip(one.split(1), other.split(1), strict=True))


def test_the_distance_of_more_than_one_piece_is_seen():
    one = torch.zeros((1 << 20) + 10)
    other = one.clone()
    other[-1] = 3
    assert distance([one], [other]) == 3
