"""The self-check: it holds for what serves, and each way to break a rule breaks that rule and no other."""

import pytest
import torch
from torch import nn

from service.errors import ModelOutputInvalid
from service.loader.freeze import freeze
from service.loader.proof import prove

EXAMPLE = torch.zeros(1, 12, dtype=torch.uint8)


class Model(nn.Module):
    """A frozen model; `also` is what its forward does besides."""

    def __init__(self, also=lambda model, scores: scores):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.5))
        self.head = nn.Linear(8, 5)
        self.register_buffer("constant", torch.zeros(1, 5))
        self.also = also
        freeze(self)

    def forward(self, x):
        return self.also(self, self.head(self.body(x)))


def proven(model, mode=torch.inference_mode):
    """The proof's report, made in the mode that the worker thread is in."""

    def run_batch(pixels):
        return model(pixels.float())

    with mode():
        return prove(run_batch, model, EXAMPLE)


def broken(report):
    """What is said of each rule that does not hold."""
    return {rule.rule: rule.detail for rule in report.rules if not rule.passed}


def test_a_frozen_model_under_inference_mode_is_proven():
    report = proven(Model())
    assert broken(report) == {}
    assert report.passed
    assert report.seconds > 0


def test_the_rules_come_in_their_order_and_each_says_something():
    report = proven(Model())
    assert [rule.rule for rule in report.rules] == ["eval", "frozen", "no-graph"]
    assert all(rule.detail.endswith(".") for rule in report.rules)


def test_one_broken_rule_is_enough_to_fail():
    report = proven(Model().train())
    assert not report.passed
    assert [rule.passed for rule in report.rules] == [False, True, True]


def test_a_part_in_train_mode_breaks_eval_and_is_named():
    model = Model()
    model.body[1].train()
    assert broken(proven(model)) == {"eval": "body.1 is in train mode (1 modules in all)."}


def test_the_model_itself_in_train_mode_breaks_eval_and_is_named():
    model = Model()
    model.training = True
    assert broken(proven(model)) == {"eval": "the model itself is in train mode (1 modules in all)."}


def test_a_forward_that_puts_a_part_in_train_mode_breaks_eval():
    def train(model, scores):
        model.body.train()
        return scores

    assert broken(proven(Model(train))) == {"eval": "forward put body in train mode (3 modules in all)."}


def test_a_parameter_that_requires_a_gradient_breaks_frozen_and_is_named():
    model = Model()
    model.head.bias.requires_grad_(True)
    assert broken(proven(model)) == {"frozen": "head.bias requires a gradient (1 parameters in all)."}


def test_a_forward_that_unfreezes_breaks_frozen():
    def unfreeze(model, scores):
        model.head.requires_grad_(True)
        return scores

    assert broken(proven(Model(unfreeze))) == {"frozen": "forward unfroze head.weight (2 parameters in all)."}


def test_outside_inference_mode_a_frozen_model_breaks_no_graph():
    report = proven(Model(), torch.enable_grad)
    assert broken(report) == {"no-graph": "The output was not made under inference_mode."}


def test_no_grad_is_not_enough():
    assert list(broken(proven(Model(), torch.no_grad))) == ["no-graph"]


def test_outside_inference_mode_an_unfrozen_model_breaks_frozen_and_no_graph():
    model = Model()
    model.head.requires_grad_(True)
    report = proven(model, torch.enable_grad)
    assert list(broken(report)) == ["frozen", "no-graph"]
    assert broken(report)["no-graph"] == "The output has a grad_fn (AddmmBackward0)."


def test_a_forward_that_leaves_inference_mode_breaks_no_graph():
    def leave(model, scores):
        with torch.inference_mode(False):
            return torch.ones(1, 5) * 2

    assert broken(proven(Model(leave))) == {"no-graph": "The output was not made under inference_mode."}


def test_a_forward_that_builds_a_graph_and_gives_its_result_breaks_no_graph():
    def build(model, scores):
        with torch.inference_mode(False), torch.enable_grad():
            return torch.ones(1, 5, requires_grad=True) * 2

    assert broken(proven(Model(build))) == {"no-graph": "The output has a grad_fn (MulBackward0)."}


def test_a_forward_that_gives_a_leaf_that_requires_a_gradient_breaks_no_graph():
    def leaf(model, scores):
        with torch.inference_mode(False):
            return torch.ones(1, 5, requires_grad=True)

    assert broken(proven(Model(leaf))) == {"no-graph": "The output requires a gradient."}


def test_a_graph_that_the_output_does_not_show_is_seen_by_the_counter():
    def aside(model, scores):
        with torch.inference_mode(False), torch.enable_grad():
            (torch.ones(1, requires_grad=True) * 2).exp()
        return scores

    assert broken(proven(Model(aside))) == {"no-graph": "Forward built 2 autograd nodes."}


@pytest.mark.parametrize(
    "given",
    [
        lambda model, x: x,
        lambda model, x: x[:, :5],
        lambda model, x: model.head.bias,
        lambda model, x: model.constant,
    ],
    ids=["its input", "a view of its input", "a parameter", "a buffer"],
)
def test_a_model_that_gives_what_it_was_given_or_holds_is_proven(given):
    model = Model()
    with torch.inference_mode():
        report = prove(lambda pixels: given(model, pixels), model, EXAMPLE)
    assert broken(report) == {}


def test_a_model_without_parameters_is_proven():
    model = nn.Softmax(dim=1).eval()
    assert broken(proven(model)) == {}


def test_what_run_batch_refuses_is_not_swallowed():
    def refuse(pixels):
        raise ModelOutputInvalid("three rows for one picture")

    with pytest.raises(ModelOutputInvalid, match="three rows"), torch.inference_mode():
        prove(refuse, Model(), EXAMPLE)
