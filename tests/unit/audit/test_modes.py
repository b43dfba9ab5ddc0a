"""The modes of one small resnet18, against counts that this file makes by itself.

What the kernel says of memory is asked of large pictures, since it must be seen above the noise of a process.
"""

import json

import pytest
import torch
from torch import nn

from service.audit.audits import run_audit
from service.audit.figures import MODES, ModeFigures
from service.audit.fresh_process import answering, in_child
from service.audit.mode_measurement import ModelOrder, _measure_memory, plain_subject, served_subject
from service.audit.modes import classifier_of
from service.errors import ConfigurationError
from service.loader.card import Card
from service.loader.freeze import freeze
from service.loader.repository import ModelFolder, find_models
from service.loader.weights import build
from service.settings import read_settings
from service.tasks.adapters.made_up import blots
from tests.support.models import SMALL, make_models

BATCH, SIDE = 8, 32


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("models"), small=SMALL.format(seed=1).replace("64", str(SIDE)))


@pytest.fixture(scope="module")
def audit(models):
    return run_audit(read_settings({"models": models, "device": "cpu", "threads": 1}), None, BATCH)


@pytest.fixture(scope="module")
def modes(audit):
    return {figures.mode: figures for figures in audit.modes}


def walk(output):
    """Nodes of a graph by next_functions, without AccumulateGrad."""
    waiting, seen = [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or node.name().endswith("AccumulateGrad"):
            continue
        seen.add(node)
        waiting += [parent for parent, _ in node.next_functions]
    return len(seen)


def counted(models, mode):
    """Nodes, saved tensors and saved bytes of one forward, by a walk and by hooks that hold nothing."""
    module = build(find_models(models)["small"])
    freeze(module)
    if mode in ("train+grad", "eval+grad", "eval+no_grad", "eval+inference_mode"):
        module.requires_grad_(True)
    module.train(mode == "train+grad")
    if mode == "eval+classifier_trainable":
        module.fc.requires_grad_(True)
    contexts = {"eval+no_grad": torch.no_grad, "eval+inference_mode": torch.inference_mode}
    saved = []

    def pack(tensor):
        saved.append(tensor.numel() * tensor.element_size())
        return tensor.detach()

    context = contexts.get(mode, torch.enable_grad)
    with context(), torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed):
        output = module((blots(BATCH, (3, SIDE, SIDE)).float() - 127) / 64)
    return walk(output), len(saved), sum(saved)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "served"])
def test_nodes_and_saved_bytes_are_those_of_an_independent_count(mode, modes, models):
    figures = modes[mode]
    found = figures.graph_nodes, figures.saved_tensors, figures.saved_bytes
    assert found == counted(models, mode)


def test_eval_alone_takes_nothing_away_and_a_classifier_costs_two_nodes(modes):
    assert modes["train+grad"].graph_nodes == modes["eval+grad"].graph_nodes == 70
    assert modes["eval+grad"].saved_tensors == 181
    assert (modes["eval+classifier_trainable"].graph_nodes, modes["eval+classifier_trainable"].saved_tensors) == (2, 1)


@pytest.mark.parametrize("mode", ["eval+frozen", "eval+no_grad", "eval+inference_mode", "served"])
def test_who_controls_gradients_builds_and_keeps_nothing(mode, modes):
    figures = modes[mode]
    assert (figures.graph_nodes, figures.saved_tensors, figures.saved_bytes, figures.held_bytes) == (0, 0, 0, 0)
    assert figures.backward is False
    assert "does not require grad" in figures.backward_error
    assert figures.gradients == []


def test_each_mode_gives_all_figures_and_a_sentence(modes):
    assert tuple(modes) == MODES
    for figures in modes.values():
        assert figures.error == ""
        assert figures.latency_ms > 0
        assert figures.words.endswith(".")
    assert 0.5 < modes["eval+inference_mode"].latency_ratio < 2, "it is held against itself"


def measure_memory_alone(connection, order, mode):
    """Entry point of a child that measures what a mode's own one measures first, and nothing after it."""
    with answering(connection) as answer:
        subject = served_subject(order) if mode == "served" else plain_subject(order, mode)
        figures = ModeFigures(mode=mode)
        subject.prepare()
        _measure_memory(subject, figures)
        answer(figures)


#: One that keeps all for a backward pass, one that keeps nothing, and the engine's own.
DIFFERENT = ("train+grad", "eval+inference_mode", "served")


@pytest.mark.parametrize(
    "mode", [mode if mode in DIFFERENT else pytest.param(mode, marks=pytest.mark.full) for mode in MODES]
)
def test_the_tally_of_memory_agrees_with_what_the_kernel_counts(mode, tmp_path):
    large = SMALL.format(seed=1).replace("72", "256").replace("64", "224")
    folder = find_models(make_models(tmp_path, large=large))["large"]
    figures = in_child(measure_memory_alone, ModelOrder(folder, "cpu", BATCH, 1), mode)
    assert figures.peak_bytes > 40e6, "enough to be seen above the noise of a process"
    assert 0.85 < figures.rss_bytes / figures.peak_bytes < 1.4


def test_gradients_cost_memory_that_inference_gives_back(modes):
    assert modes["eval+grad"].peak_bytes > 2.5 * modes["eval+inference_mode"].peak_bytes
    assert modes["eval+grad"].held_bytes <= modes["eval+grad"].peak_bytes


def test_only_train_mode_changes_answers_and_statistics(modes):
    assert modes["train+grad"].max_difference > 0.05
    assert modes["train+grad"].batchnorm_changed is True
    for mode in MODES[1:]:
        assert modes[mode].max_difference < 1e-5
        assert modes[mode].batchnorm_changed is False
        assert modes[mode].repeatable is True


def test_backward_reaches_what_is_left_to_train(modes):
    assert len(modes["train+grad"].gradients) == len(modes["eval+grad"].gradients) == 62
    assert modes["eval+classifier_trainable"].gradients == ["fc.weight", "fc.bias"]
    assert "reaches 2 of 62 parameters: fc (2)" in modes["eval+classifier_trainable"].words


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head, self.last = nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU()


def folder(path, **keys):
    return ModelFolder("parts", path, Card(weights="random:1", architecture="torchvision:resnet18", **keys))


def test_the_classifier_is_the_last_child_with_parameters(tmp_path):
    assert classifier_of(folder(tmp_path), Parts()) == "head"


def test_the_card_can_name_the_classifier(tmp_path):
    assert classifier_of(folder(tmp_path, classifier="body"), Parts()) == "body"


def test_a_classifier_that_is_not_there_is_told_with_the_names_that_are(tmp_path):
    with pytest.raises(ConfigurationError, match=r"model.toml: classifier: .*'fc'; there are body, head"):
        classifier_of(folder(tmp_path, classifier="fc"), Parts())


def test_the_audit_is_json_that_reads_back(audit, capsys):
    from service.audit.output import print_json

    print_json(audit)
    read = json.loads(capsys.readouterr().out)
    assert (read["model"], read["device"], read["batch_size"]) == ("small", "cpu", BATCH)
    assert [row["mode"] for row in read["modes"]] == list(MODES)
    assert read["modes"][1]["graph_nodes"] == 70


def test_the_table_fits_120_columns_and_names_each_mode(audit, capsys):
    from service.audit.output import print_table

    print_table(audit)
    printed = capsys.readouterr().out
    assert all(len(line) <= 120 for line in printed.splitlines())
    assert all(printed.count(f"│ {mode} ") == 2 and f"{mode}: " in printed for mode in MODES)
