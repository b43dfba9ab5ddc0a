"""Logits to classes: a softmax, the best of it, and nothing of the rest of the batch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.tasks.adapters.heads import best_classes


def test_the_best_classes_of_each_row_fall_and_name_their_logits():
    logits = torch.tensor([[1.0, 3.0, 2.0, -5.0], [0.0, -1.0, 9.0, 8.0]])
    probabilities, ids = best_classes(logits, 3)
    assert ids.tolist() == [[1, 2, 0], [2, 3, 0]]
    assert torch.equal(probabilities, torch.softmax(logits, 1).gather(1, ids.long()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_best_classes_are_float32_and_int32_whatever_the_logits_are(dtype):
    probabilities, ids = best_classes(torch.zeros(2, 4, dtype=dtype), 2)
    assert (probabilities.dtype, ids.dtype) == (torch.float32, torch.int32)
    assert (probabilities.shape, ids.shape) == ((2, 2), (2, 2))


def test_the_softmax_of_half_precision_logits_is_taken_in_float32():
    logits = torch.linspace(-4, 4, 1000).half().unsqueeze(0)
    assert torch.equal(best_classes(logits, 1000)[0], best_classes(logits.float(), 1000)[0])


def test_of_fewer_classes_than_wanted_all_are_given():
    probabilities, ids = best_classes(torch.tensor([[1.0, 2.0]]), 100)
    assert ids.tolist() == [[1, 0]]
    assert probabilities.sum().item() == pytest.approx(1)


def test_equal_classes_get_equal_probabilities_and_each_comes_once():
    probabilities, ids = best_classes(torch.tensor([[7.0, 1.0, 7.0, 7.0]]), 3)
    assert sorted(ids[0].tolist()) == [0, 2, 3]
    assert len(set(probabilities[0].tolist())) == 1


def test_logits_beyond_the_range_of_exp_are_certain_not_nan():
    probabilities, ids = best_classes(torch.tensor([[1e5, 0.0, -1e5]]), 3)
    assert probabilities.tolist() == [[1.0, 0.0, 0.0]]
    assert ids[0, 0] == 0


@given(
    st.integers(1, 8).flatmap(
        lambda classes: st.lists(
            st.lists(st.floats(-50, 50, width=32), min_size=classes, max_size=classes), min_size=1, max_size=5
        )
    )
)
def test_all_classes_sum_to_one_and_fall_and_a_row_does_not_depend_on_its_batch(rows):
    logits = torch.tensor(rows)
    probabilities, ids = best_classes(logits, logits.shape[1])
    assert torch.allclose(probabilities.sum(1), torch.ones(len(rows)), atol=1e-5)
    assert bool((probabilities.diff(dim=1) <= 0).all())
    assert ids.sort(1).values.tolist() == [list(range(logits.shape[1]))] * len(rows)
    for row, alone in zip(probabilities, logits, strict=True):
        assert torch.allclose(best_classes(alone.unsqueeze(0), len(alone))[0][0], row, atol=1e-6)


def test_each_label_stands_on_its_own_under_a_sigmoid():
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    probabilities, ids = best_classes(logits, 3, "sigmoid")
    assert ids.tolist() == [[0, 2, 1]]
    assert torch.equal(probabilities, torch.sigmoid(logits)[:, [0, 2, 1]])


def test_probabilities_of_the_model_are_left_as_they_are():
    given = torch.tensor([[0.25, 0.7, 0.05]], dtype=torch.bfloat16)
    probabilities, ids = best_classes(given, 2, "none")
    assert ids.tolist() == [[1, 0]]
    assert torch.equal(probabilities, given.float()[:, [1, 0]])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_nan_comes_first_whatever_the_activation(activation):
    probabilities, _ = best_classes(torch.tensor([[0.5, torch.nan, 0.1]]), 1, activation)
    assert probabilities.isnan().all()
