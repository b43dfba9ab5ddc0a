"""Outputs to results: the best classes, tensors or values, and which of them must not leave."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.signature import TensorSpec
from service.tasks.adapters.heads import ClassesHead, TensorsHead, ValuesHead, best_classes


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


def faults(head, *outputs):
    return head.faults(head.reduce(outputs))


def test_of_a_classifiers_results_a_hundred_leave_at_most():
    outputs = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    head = ClassesHead([TensorSpec("scores", "float32", (300,))], "softmax")
    assert head.outputs == (TensorSpec("probabilities", "float32", (100,)), TensorSpec("ids", "int32", (100,)))
    probabilities, ids = head.reduce([outputs])
    assert torch.equal(head.probabilities([outputs]).gather(1, ids.long()), probabilities)
    assert (probabilities.shape, ids.shape) == ((2, 100), (2, 100))


@pytest.mark.parametrize(
    ("activation", "scores", "words"),
    [
        ("softmax", [torch.nan, 1.0], "The model returned NaN for this input."),
        ("softmax", [torch.inf, 1.0], "The model returned NaN for this input."),
        ("sigmoid", [torch.nan, 1.0], "The model returned NaN for this input."),
        (
            "none",
            [1.5, 0.5],
            "The model returned 1.5 for this input where its card promises a probability, from 0 to 1.",
        ),
        (
            "none",
            [-0.5, -0.25],
            "The model returned -0.25 for this input where its card promises a probability, from 0 to 1.",
        ),
    ],
)
def test_only_the_example_whose_scores_are_no_probabilities_is_at_fault(activation, scores, words):
    head = ClassesHead([TensorSpec("scores", "float32", (2,))], activation)
    assert faults(head, torch.tensor([[0.5, 0.25], scores, [0.25, 0.5]])) == {1: words}


def test_a_probability_may_be_a_rounding_error_above_one():
    head = ClassesHead([TensorSpec("scores", "float32", (2,))], "none")
    assert faults(head, torch.tensor([[1.0001, 0.0], [1.0, 0.0]])) == {}


RAW = TensorSpec("a", "float32", (2,)), TensorSpec("b", "int64"), TensorSpec("c", "bfloat16", (2, 2), finite=False)


def outputs_of(count):
    return torch.zeros(count, 2), torch.zeros(count, dtype=torch.int64), torch.zeros(count, 2, 2).bfloat16()


def test_tensors_leave_as_they_are():
    head = TensorsHead(RAW)
    outputs = [torch.randn(3, 2), torch.tensor([2**62, -1, 0]), torch.randn(3, 2, 2).bfloat16()]
    results = head.reduce(outputs)
    assert head.outputs == RAW
    assert all(torch.equal(result, output) for result, output in zip(results, outputs, strict=True))
    assert head.probabilities(outputs) is None


def test_tensors_leave_in_c_order():
    (result,) = TensorsHead([TensorSpec("a", "float32", (3, 4))]).reduce([torch.randn(4, 3, 2).movedim(2, 0).mT])
    assert (result.shape, result.is_contiguous()) == ((2, 3, 4), True)


@pytest.mark.parametrize(
    ("value", "what"), [(torch.nan, "NaN"), (torch.inf, "an infinity"), (-torch.inf, "an infinity")]
)
def test_only_the_example_with_a_number_that_is_none_is_at_fault(value, what):
    outputs = outputs_of(4)
    outputs[0][2, 1] = value
    words = f"The model returned {what} in a for this input; finite = false on the card would let it out."
    assert faults(TensorsHead(RAW), *outputs) == {2: words}


def test_every_example_at_fault_is_told():
    outputs = outputs_of(4)
    outputs[0][1, 0], outputs[0][3, 1] = torch.nan, torch.inf
    assert sorted(faults(TensorsHead(RAW), *outputs)) == [1, 3]


def test_an_output_that_need_not_be_finite_is_no_fault():
    outputs = outputs_of(4)
    outputs[2][:] = torch.nan
    assert faults(TensorsHead(RAW), *outputs) == {}


def test_a_single_number_may_be_at_fault():
    head = TensorsHead([TensorSpec("y", "float32")])
    assert sorted(faults(head, torch.tensor([0.0, torch.nan, 1.0]))) == [1]


@pytest.mark.parametrize(("shape", "count"), [((), 1), ((1,), 1), ((3,), 3)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_values_are_rows_of_float32(shape, count, dtype):
    head = ValuesHead([TensorSpec("scores", dtype, shape)])
    assert head.outputs == (TensorSpec("values", "float32", (count,)),)
    outputs = torch.arange(2 * count).reshape(2, *shape).to(getattr(torch, dtype))
    (result,) = head.reduce([outputs])
    assert (result.dtype, result.tolist()) == (torch.float32, torch.arange(2.0 * count).reshape(2, count).tolist())


def test_a_value_that_is_no_number_is_a_fault_of_its_example():
    head = ValuesHead([TensorSpec("scores", "float32", (2,))])
    assert sorted(faults(head, torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]))) == [1]


def test_a_float64_beyond_float32_is_a_fault():
    head = ValuesHead([TensorSpec("scores", "float64")])
    assert sorted(faults(head, torch.tensor([1.0, 1e300], dtype=torch.float64))) == [1]
