"""What outputs tell of a model's last layer: each head that a softmax is wrong for is told, and no other is."""

import pytest
import torch
from torch.nn import functional

from service.loader.output_findings import judge_outputs

LOGITS = 3 * torch.randn(16, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
NONE = 'set activation = "none", to use them as they are.'

#: By name: outputs, the activation on the card, and what is found of them.
HEADS = {
    "logits": (LOGITS, "softmax", set()),
    "logits for a sigmoid": (LOGITS, "sigmoid", set()),
    "log-softmax, of which a softmax gives back the probabilities": (LOGITS.log_softmax(1), "softmax", set()),
    "logits behind a ReLU": (LOGITS.relu(), "softmax", set()),
    "small logits": (LOGITS / 100, "softmax", set()),
    "two logits": (LOGITS[:, :2], "softmax", set()),
    "one logit": (LOGITS[:, :1], "sigmoid", set()),
    "probabilities that are declared": (LOGITS.softmax(1), "none", set()),
    "labels on their own that are declared": (LOGITS.sigmoid(), "none", set()),
    "one probability that is declared": (LOGITS[:, :1].sigmoid(), "none", set()),
    "softmax": (LOGITS.softmax(1), "softmax", {("activation", "refused")}),
    "softmax in bfloat16": (LOGITS.bfloat16().softmax(1).double(), "softmax", {("activation", "refused")}),
    "softmax that is sure": ((100 * LOGITS).softmax(1), "softmax", {("activation", "refused")}),
    "softmax below a sigmoid": (LOGITS.softmax(1), "sigmoid", {("activation", "refused")}),
    "sigmoid": (LOGITS.sigmoid(), "softmax", {("activation", "refused")}),
    "sigmoid twice": (LOGITS.sigmoid(), "sigmoid", {("activation", "refused")}),
    "sigmoid of rare labels": ((LOGITS - 12).sigmoid(), "softmax", {("activation", "refused")}),
    "a clamp from 0 to 1": (LOGITS.clamp(0, 1), "softmax", {("activation", "refused")}),
    "one probability below a sigmoid": (LOGITS[:, :1].sigmoid(), "sigmoid", {("activation", "refused")}),
    "log-softmax below a sigmoid": (LOGITS.log_softmax(1), "sigmoid", {("activation", "refused")}),
    "logits that are declared probabilities": (LOGITS, "none", {("activation", "refused")}),
    "log-softmax that is declared probabilities": (LOGITS.log_softmax(1), "none", {("activation", "refused")}),
    "small numbers behind a ReLU": (LOGITS.relu() / 15, "softmax", {("activation", "warning")}),
    "unit vectors": (functional.normalize(LOGITS), "softmax", {("unit-norm", "warning")}),
    "always the same": (LOGITS[:1].expand(16, 10), "softmax", {("constant", "severe")}),
    "zeros": (torch.zeros(16, 10), "softmax", {("constant", "severe")}),
    "nothing but NaN": (LOGITS * torch.nan, "softmax", set()),
}


def judged(rows, activation="softmax", allow_constant=False, tolerance=1e-5, end="other"):
    rows = rows.double()
    contrast = float((rows - rows[0]).abs().max() / (rows.abs().max() or 1))
    return judge_outputs(rows, contrast, tolerance, activation, allow_constant, end)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_known_by_its_outputs(name):
    rows, activation, expected = HEADS[name]
    tolerance = 3e-2 if "bfloat16" in name else 1e-5
    assert {(found.name, found.level) for found in judged(rows, activation, tolerance=tolerance)} == expected


@pytest.mark.parametrize(("end", "levels"), [("linear", []), ("pooled", ["warning"]), ("other", ["refused"])])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_few_outputs_between_0_and_1_are_probabilities_only_where_they_may_be(end, levels, activation):
    rows = 0.5 + LOGITS[:, :2] / 100
    assert [found.level for found in judged(rows, activation, end=end)] == levels


def test_a_linear_layer_whose_rows_sum_to_1_averages_probabilities():
    assert [found.level for found in judged(LOGITS.softmax(1), end="linear")] == ["refused"]


def test_a_softmax_inside_is_refused_with_the_line_that_mends_it():
    assert judged(LOGITS.softmax(1))[0].detail.endswith(f"sum to 1: they are probabilities already; {NONE}")


def test_a_sigmoid_inside_is_refused_with_the_line_that_mends_it():
    assert judged(LOGITS.sigmoid())[0].detail.endswith(f"do not sum to 1: they are probabilities already; {NONE}")


def test_logits_declared_to_be_probabilities_are_refused_with_their_range():
    (found,) = judged(torch.tensor([[0.5, 3.25], [-2.5, 1.0]]), "none")
    assert found.detail.startswith("Outputs range from -2.5 to 3.25, so they are not probabilities")


def test_the_same_answer_to_everything_is_a_warning_where_the_card_allows_it():
    (found,) = judged(torch.zeros(16, 10), allow_constant=True)
    assert found.level == "warning"
    assert found.detail.endswith("; the card allows it.")


def test_a_row_that_is_not_finite_says_nothing_of_the_others():
    rows = torch.cat([LOGITS.softmax(1), LOGITS[:1] * torch.nan])
    assert [found.name for found in judged(rows)] == ["activation"]


def test_a_single_example_cannot_be_constant():
    assert judged(LOGITS[:1]) == []
