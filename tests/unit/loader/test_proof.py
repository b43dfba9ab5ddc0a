"""The proof: it holds for what serves, says what broke a rule, and never takes more forwards than it may."""

from functools import partial

import pytest
import torch
from torch import nn

from service.errors import ModelOutputInvalid
from service.loader import proof
from service.loader.comparison import distance
from service.loader.controls import CONTROLS
from service.loader.freeze import freeze
from service.loader.proof import JUDGES, prove, tolerance_of
from service.loader.report import WAIVABLE

EXAMPLES = torch.randint(0, 256, (8, 12), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
SIZES = (1, 2, 4)


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


def proven(model, mode=torch.inference_mode, sizes=SIZES, waive=None):
    """The proof's report, made in the mode that the worker thread is in."""

    def run_batch(arrays):
        return model(arrays[0].float() / 255)

    with mode():
        return prove(run_batch, model, [EXAMPLES], sizes, waive)


def broken(report):
    """What is said of each rule that does not hold."""
    return {rule.rule: rule.detail for rule in report.rules if not rule.passed}


def test_a_frozen_model_under_inference_mode_is_proven():
    report = proven(Model())
    assert broken(report) == {}
    assert report.passed
    assert report.refusal == ""


def test_the_figures_say_what_was_done_and_seen():
    figures = proven(Model()).figures
    assert (figures.graph_nodes, figures.saved_tensors, figures.saved_bytes) == (0, 0, 0)
    assert figures.sizes == [1, 2, 4]
    assert figures.forwards == 4 + 2 + 4
    assert figures.largest_difference <= figures.tolerance == 1e-5
    assert figures.contrast > 0.01
    assert figures.seconds > 0


def test_the_rules_come_in_their_order_and_each_says_something():
    report = proven(Model())
    assert tuple(rule.rule for rule in report.rules) == tuple(JUDGES)
    assert all(rule.detail.endswith(".") for rule in report.rules)


def test_one_broken_rule_is_enough_to_fail():
    model = Model()
    model.head.requires_grad_(True)
    report = proven(model)
    assert not report.passed
    assert report.broken == ["frozen"]
    assert report.refusal == "frozen: head.weight requires a gradient (2 parameters in all)."


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_each_control_shows_exactly_what_it_must(control):
    report = control.prove()
    assert control.seen(report) == control.breaks, (broken(report), report.findings)


def test_there_are_controls_enough_and_each_rule_is_in_one():
    wrong = [control for control in CONTROLS if control.breaks]
    assert len(wrong) >= 25
    assert len(CONTROLS) - len(wrong) >= 10
    assert set.union(*(set(control.breaks) for control in wrong)) == {*JUDGES, "activation", "constant", "unit-norm"}
    assert len({control.name for control in CONTROLS}) == len(CONTROLS)


def test_what_a_card_may_waive_are_rules():
    assert set(WAIVABLE) < set(JUDGES)


@pytest.mark.parametrize("rule", JUDGES)
def test_a_proof_without_one_of_its_rules_is_noticed_by_a_control(rule, monkeypatch):
    monkeypatch.setitem(JUDGES, rule, lambda trial, comparison: proof.held("Nobody looked."))
    missed = [c.name for c in CONTROLS if c.breaks == {rule} and not c.caught(c.prove())]
    if rule in ("no-graph", "nothing-saved"):  # no way to break these leaves inference mode on
        missed = [c.name for c in CONTROLS if rule in c.breaks and not c.caught(c.prove())]
    assert missed


def test_a_part_in_train_mode_is_named():
    model = Model()
    model.body[1].train()
    assert broken(proven(model))["eval"] == "body.1 is in train mode (1 modules in all)."


def test_the_model_itself_in_train_mode_is_named():
    model = Model()
    model.training = True
    assert broken(proven(model)) == {"eval": "the model itself is in train mode (1 modules in all)."}


def test_a_parameter_that_requires_a_gradient_is_named():
    model = Model()
    model.head.bias.requires_grad_(True)
    assert broken(proven(model)) == {"frozen": "head.bias requires a gradient (1 parameters in all)."}


def test_a_forward_that_unfreezes_for_a_while_is_told_with_the_parameter():
    def unfreeze(model, scores):
        model.head.requires_grad_(True)
        again = model.head(model.body(torch.zeros(1, 12)))
        model.head.requires_grad_(False)
        return scores + again * 0

    said = broken(proven(Model(unfreeze)))["frozen"]
    assert said == "head.weight required a gradient during forward (2 tensors in all)."


def test_a_layer_that_is_registered_nowhere_is_described():
    hidden = [nn.Linear(5, 5).eval()]
    said = broken(proven(Model(lambda model, scores: hidden[0](scores))))
    assert said["frozen"].startswith("weight of a Linear that is registered nowhere required a gradient during forward")


def test_an_operator_outside_inference_mode_is_named():
    def leave(model, scores):
        with torch.inference_mode(False):
            torch.ones(1) + 1
        return scores

    said = broken(proven(Model(leave)))
    assert said == {"inference-mode": "Inference mode was off at the operator aten.ones.default (6 times in all)."}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_in_a_thread_without_inference_mode_a_frozen_model_is_not_proven(mode):
    said = broken(proven(Model(), mode))
    assert list(said) == ["inference-mode", "no-graph"]
    assert said["no-graph"] == "The output was not made under inference_mode."


def test_what_a_graph_would_cost_is_in_the_figures():
    model = Model()
    model.requires_grad_(True)
    report = proven(model, torch.enable_grad)
    assert report.broken == ["frozen", "inference-mode", "no-graph", "nothing-saved"]
    assert broken(report)["no-graph"] == "The output has a grad_fn (AddmmBackward0)."
    # The three watched forwards, of 1, 2 and 4 examples: two AddmmBackward0 each, and the transposed weights.
    assert report.figures.graph_nodes >= 6
    assert report.figures.saved_tensors >= 6
    assert report.figures.saved_bytes >= 4 * (12 + 8) * (1 + 2 + 4)


def test_a_graph_that_the_output_does_not_show_is_seen_by_the_counter():
    def aside(model, scores):
        with torch.inference_mode(False), torch.enable_grad():
            (torch.ones(1, requires_grad=True) * 2).exp()
        return scores

    assert broken(proven(Model(aside)))["no-graph"] == "Forward built 6 autograd nodes."


def test_a_changed_buffer_is_named():
    def count(model, scores):
        model.constant += 1
        return scores

    assert broken(proven(Model(count))) == {"nothing-changed": "constant was changed by forward (1 tensors in all)."}


@pytest.mark.parametrize(
    "given",
    [
        lambda model, x: x,
        lambda model, x: x[:, :5],
        lambda model, x: model.head.bias.expand(len(x), 5),
        lambda model, x: model.constant.expand(len(x), 5),
    ],
    ids=["its input", "a view of its input", "a parameter", "a buffer"],
)
def test_a_model_that_gives_what_it_was_given_or_holds_is_proven(given):
    model = Model()
    with torch.inference_mode():
        report = prove(lambda arrays: given(model, arrays[0]), model, [EXAMPLES], SIZES)
    assert broken(report) == {}


def test_answers_that_hardly_differ_prove_nothing_and_the_report_says_so():
    report = proven(Model(lambda model, scores: scores * 1e-4 + 3))
    assert report.passed
    assert report.inconclusive.startswith("Different inputs differ by ")
    assert {rule.rule: rule.detail for rule in report.rules}["batch-invariant"] == report.inconclusive


def test_a_model_whose_cap_is_one_is_proven_alone():
    report = proven(Model(), sizes=(1,))
    assert report.passed
    assert report.figures.forwards == 8


@pytest.mark.parametrize("cap", [2, 8, 32])
def test_a_restarts_proof_takes_four_forwards_at_the_cap_and_four_at_batch_1(cap):
    sizes = []
    model = Model()

    def run_batch(arrays):
        sizes.append(len(arrays[0]))
        return model(arrays[0].float())

    examples = torch.randint(0, 256, (2 * cap, 12), dtype=torch.uint8)
    with torch.inference_mode():
        assert prove(run_batch, model, [examples], (1, cap)).passed
    assert sorted(sizes) == [1] * 4 + [cap] * 4


def noisy(model, scores):
    return scores + torch.rand_like(scores)


def test_a_waived_rule_is_told_and_does_not_refuse():
    report = proven(Model(noisy), waive={"repeatable": "Monte Carlo on purpose"})
    assert report.broken == ["repeatable"]
    assert report.passed
    assert report.waivers == {"repeatable": "Monte Carlo on purpose"}


def test_a_waiver_of_another_rule_does_not_help():
    assert not proven(Model(noisy), waive={"batch-invariant": "it is not"}).passed


def test_nan_is_like_nan_and_far_from_a_number():
    nan, one = torch.tensor([float("nan"), 1.0]), torch.tensor([1.0, 1.0])
    assert distance([nan], [nan]) == 0
    assert distance([nan], [one]) == float("inf")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 3e-3)])
def test_the_tolerance_is_that_of_what_a_model_computes_in(dtype, tolerance):
    assert tolerance_of(nn.Linear(2, 2).to(dtype)) == tolerance
    assert tolerance_of(nn.Softmax(dim=1)) == 1e-5


def test_a_model_without_parameters_is_proven():
    model = nn.Softmax(dim=1).eval()
    assert broken(proven(model)) == {}


def test_what_run_batch_refuses_is_not_swallowed():
    def refuse(arrays):
        raise ModelOutputInvalid("three rows for one picture")

    with pytest.raises(ModelOutputInvalid, match="three rows"), torch.inference_mode():
        prove(refuse, Model(), [EXAMPLES], SIZES)


def _run(model, arrays):
    return model(*arrays)


def test_a_thread_is_as_it_was_after_a_proof_of_what_never_comes_back():
    def leave(model, scores):
        model.left = torch.inference_mode(False)
        model.left.__enter__()
        return scores

    with torch.inference_mode(False):  # to which the thread returns when the model is gone, and what it left open
        model = Model(leave)
        with torch.inference_mode():
            report = prove(partial(_run, model), model, [EXAMPLES.float()], SIZES)
            assert torch.is_inference_mode_enabled()
        assert report.broken == ["inference-mode"]
        assert not torch.is_inference_mode_enabled()
        assert torch.equal(torch.ones(2) + 1, torch.full((2,), 2.0))
        del model
