"""Which of a file's state_dicts a card means, and what its names begin with."""

from collections import OrderedDict

import pytest
import safetensors.torch
import structlog
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from service.errors import ConfigurationError
from service.loader.load import load
from service.loader.weights import build
from tests.support.tiny import tiny, tiny_at

#: A model with a part that is a model too.
NESTED = """\
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5))

    def forward(self, x):
        return self.model(x)


def tiny():
    return Tiny(){part}
"""


def state(value=1.0, before="", classes=5):
    return {f"{before}2.weight": torch.full((classes, 12), value), f"{before}2.bias": torch.zeros(classes)}


def folder(root, content, *lines, **options):
    path = tiny_at(root, "file:weights.pth", *lines, **options)
    torch.save(content, path / "weights.pth")
    return tiny(root)


def value_of(folder):
    """What the weights of the last layer are filled with."""
    [value] = {weight.item() for weight in build(folder).state_dict()["2.weight"].flatten()}
    return value


def refused(folder):
    with pytest.raises(ConfigurationError) as caught:
        build(folder)
    [problem] = caught.value.problems
    return problem.removeprefix(f"{folder.path / 'model.toml'}: ").removeprefix(f"{folder.path / 'weights.pth'}: ")


OPTIMIZER = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
OPTIMIZER.param_groups[0]["params"][0].grad = torch.ones(2)
OPTIMIZER.step()
TRAINED = {"epoch": 3, "optimizer": OPTIMIZER.state_dict(), "best": 0.91, "metrics": {"top1": 0.9}}


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "anything"])
def test_the_only_state_dict_of_a_checkpoint_is_taken_whatever_its_key(tmp_path, key):
    assert value_of(folder(tmp_path, TRAINED | {key: state(2.0)})) == 2


def test_a_state_dict_deeper_in_a_checkpoint_is_taken_too(tmp_path):
    assert value_of(folder(tmp_path, TRAINED | {"ema": {"decay": 0.99, "state_dict": state(2.0)}})) == 2


def test_of_several_state_dicts_the_only_one_that_fits_is_taken(tmp_path):
    other = {"features.weight": torch.zeros(3)}
    assert value_of(folder(tmp_path, {"discriminator": other, "generator": state(2.0), "losses": other})) == 2


def test_of_several_that_fit_none_is_taken_and_the_card_has_to_choose(tmp_path):
    content = {"state_dict": state(1.0), "state_dict_ema": state(2.0, "module."), "head": {"x": torch.zeros(1)}}
    assert refused(folder(tmp_path, content)) == (
        "weights: weights.pth holds 3 state_dicts: state_dict (2 tensors, of which 2 fit the architecture), "
        'state_dict_ema (2 tensors, of which 2 fit the architecture without "module."), '
        "head (1 tensor, of which 0 fit the architecture); "
        'choose one on the card: checkpoint_key = "state_dict" or checkpoint_key = "state_dict_ema"'
    )


def test_state_dicts_of_other_shapes_do_not_fit(tmp_path):
    content = {"student": state(2.0), "teacher": state(1.0, classes=9) | {"2.bias": torch.zeros(9)}}
    assert value_of(folder(tmp_path, content)) == 2


@pytest.mark.parametrize(
    ("key", "content"),
    [
        ("state_dict_ema", {"state_dict": state(1.0), "state_dict_ema": state(2.0)}),
        ("ema.state_dict", {"model": state(1.0), "ema": {"state_dict": state(2.0)}}),
        ("ema.state_dict", {"ema.state_dict": state(2.0), "ema": {"state_dict": state(1.0)}}),
        ("a.b.c", {"a.b": {"c": state(2.0)}, "a": {"b": {"d": state(1.0)}}}),
        ("a.b.c", {"a": {"b.c": state(2.0)}, "model": state(1.0)}),
    ],
)
def test_the_cards_key_chooses_and_its_dots_go_deeper(tmp_path, key, content):
    assert value_of(folder(tmp_path, content, f'checkpoint_key = "{key}"')) == 2


KEYED = [
    (
        {"state_dict": state(), "ema": {"model": state()}},
        '"gone" of weights.pth is not there; there are state_dict (2 tensors, of which 2 fit the architecture), '
        "ema.model (2 tensors, of which 2 fit the architecture)",
    ),
    (
        {"state_dict": state(), "gone": 3},
        '"gone" of weights.pth is an int, not a state_dict; '
        "there are state_dict (2 tensors, of which 2 fit the architecture)",
    ),
    (state(), 'weights.pth is a state_dict itself, and holds no other under "gone"; leave it out'),
    (
        {"epoch": 3},
        '"gone" of weights.pth is not there; the file holds no state_dict (names to tensors); '
        "its keys are epoch (an int)",
    ),
]


@pytest.mark.parametrize(("content", "words"), KEYED, ids=["not there", "no state_dict", "flat", "nothing"])
def test_a_key_that_leads_to_no_state_dict_is_told_with_those_that_do(tmp_path, content, words):
    assert refused(folder(tmp_path, content, 'checkpoint_key = "gone"')) == f"checkpoint_key: {words}"


SAVE = "save it with torch.save(model.state_dict(), …) or as .safetensors"
NONE = [
    (
        TRAINED,
        "holds no state_dict (names to tensors); its keys are epoch (an int), optimizer (a dict), best (a float), "
        "metrics (a dict)",
    ),
    ({"2.bias": 1.0}, "holds no state_dict (names to tensors); its keys are 2.bias (a float)"),
    ({1: torch.zeros(5)}, "holds no state_dict (names to tensors); its keys are 1 (a Tensor)"),
    (state() | {"epoch": 3}, "is not a state_dict: it holds epoch (an int) and 2 tensors"),
    ([torch.zeros(5)], "is not a state_dict (names to tensors) but a list"),
    (torch.zeros(5), "is not a state_dict (names to tensors) but a Tensor"),
    ({}, "holds no tensor"),
]


@pytest.mark.parametrize(("content", "words"), NONE)
def test_a_file_without_a_state_dict_is_told_what_it_holds(tmp_path, content, words):
    assert refused(folder(tmp_path, content)) == f"weights: {words}; {SAVE}"


def compiled(module):
    """The names that a module has once `torch.compile` has wrapped it."""
    return {f"_orig_mod.{name}": value for name, value in module.state_dict().items()}


NET = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, 5))
PREFIXED = {
    "DataParallel": (nn.DataParallel(NET).state_dict(), 'all 2 keys begin with "module."', "module."),
    "compiled": (compiled(NET), 'all 2 keys begin with "_orig_mod."', "_orig_mod."),
    "both": (compiled(nn.DataParallel(NET)), 'all 2 keys begin with "_orig_mod.module."', "_orig_mod.module."),
    "Lightning": (state(before="model.") | {"loss.weight": torch.ones(5)}, '2 of 3 keys begin with "model."', "model."),
    "averaged": (AveragedModel(NET).state_dict(), '2 of 3 keys begin with "module."', "module."),
    "any other": (state(before="backbone.body."), 'all 2 keys begin with "backbone.body."', "backbone.body."),
}


@pytest.mark.parametrize("name", PREFIXED)
def test_what_all_names_begin_with_is_told_in_a_line_that_mends_it(tmp_path, name):
    content, words, prefix = PREFIXED[name]
    assert refused(folder(tmp_path / "before", content)) == f'weights: {words}; set strip_prefix = "{prefix}"'
    mended = build(folder(tmp_path / "after", content, f'strip_prefix = "{prefix}"')).state_dict()
    assert all(torch.equal(value, content[prefix + key]) for key, value in mended.items())


def test_a_prefix_is_told_where_it_is_not_all_that_is_wrong(tmp_path):
    content = state(before="module.") | {"module.2.bias": torch.zeros(9), "module.extra": torch.zeros(1)}
    assert refused(folder(tmp_path, content)) == (
        'weights: all 3 keys begin with "module."; set strip_prefix = "module."'
    )


def test_a_prefix_of_which_only_half_is_stripped_is_told_whole(tmp_path):
    made = folder(tmp_path, state(before="module._orig_mod."), 'strip_prefix = "module."')
    words = 'all 2 keys begin with "module._orig_mod."; set strip_prefix = "module._orig_mod."'
    assert refused(made) == f"weights: {words}"


def test_a_prefix_that_no_name_begins_with_is_refused(tmp_path):
    assert refused(folder(tmp_path, state(), 'strip_prefix = "module."')) == (
        'strip_prefix: no key of the weights begins with "module."; they are 2.weight, 2.bias; correct it, or leave it '
        "out"
    )


def test_names_without_the_prefix_are_left_out_unless_they_are_needed_and_the_log_says_how_many(tmp_path):
    content = {"model.2.weight": torch.ones(5, 12), "2.bias": torch.ones(5), "loss.weight": torch.ones(5)}
    with structlog.testing.capture_logs() as logs:
        module = build(folder(tmp_path, content, 'strip_prefix = "model."'))
    assert torch.equal(module.state_dict()["2.bias"], content["2.bias"])
    [line] = [line for line in logs if line["event"] == "weights left out"]
    assert (line["tensors"], line["why"]) == (1, "they do not begin with model.")


def test_names_that_lack_what_the_architectures_begin_with_are_told(tmp_path):
    inner = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5)).state_dict()
    assert refused(folder(tmp_path, inner, code=NESTED.format(part=""))) == (
        'weights: all 7 keys lack the "model." that the architecture\'s begin with; '
        "save the state_dict of the whole model, or have the factory return its model"
    )
    build(folder(tmp_path / "mended", inner, code=NESTED.format(part=".model")))


def test_the_versions_of_modules_lose_the_prefix_too(tmp_path):
    """A BatchNorm of an old torch has no `num_batches_tracked`; one that says it is new and has none is broken."""
    whole = OrderedDict((f"model.{name}", value) for name, value in state().items())
    whole |= {f"model.3.{name}": torch.ones(5) for name in ("weight", "bias", "running_mean", "running_var")}
    code = NESTED.format(part=".model")
    build(folder(tmp_path / "old", whole, 'strip_prefix = "model."', code=code))
    whole._metadata = OrderedDict({"": {"version": 1}, "model": {"version": 1}, "model.3": {"version": 2}})
    problem = refused(folder(tmp_path / "new", whole, 'strip_prefix = "model."', code=code))
    assert "missing from the weights: 3.num_batches_tracked" in problem


def test_a_prefix_is_stripped_from_safetensors_too(tmp_path):
    path = tiny_at(tmp_path, "file:weights", 'strip_prefix = "module."')
    safetensors.torch.save_file(state(2.0, "module."), path / "weights")
    assert value_of(tiny(tmp_path)) == 2


def test_the_key_that_chooses_moves_the_version(tmp_path):
    content = {"state_dict": state(1.0), "ema": state(1.0)}
    one, other = (folder(tmp_path / key, content, f'checkpoint_key = "{key}"') for key in content)
    assert load(one).seal == load(other).seal
    assert load(one).version != load(other).version
