"""`[architecture_arguments]` go to the factory by keyword; what does not go with it is told by its key."""

import pytest

from service.errors import ConfigurationError
from service.loader.load import load
from service.loader.repository import find_models
from service.loader.weights import build
from tests.support.models import make_models
from tests.support.tiny import tiny

CODE = """\
from torch import nn


class Net(nn.Sequential):
    def __init__(self, depth, num_classes=5, *, side=4):
        super().__init__(nn.AvgPool2d(side), nn.Flatten(), nn.Linear(3 * (8 // side) ** 2, num_classes))


def tiny({parameters}):
    return {returned}
"""
SMALL = "[input]\nresize = 96\ncrop = 96\n"


def given(root, arguments, parameters="num_classes=5, side=4", returned="Net(1, num_classes, side=side)"):
    lines = [f"architecture_arguments = {{ {arguments} }}"] if arguments else []
    return tiny(root, "random:1", *lines, code=CODE.format(parameters=parameters, returned=returned))


def torchvisions(root, name, arguments, weights="random:1"):
    card = f'weights = "{weights}"\narchitecture = "torchvision:{name}"\n{SMALL}'
    return find_models(make_models(root, net=f"{card}[architecture_arguments]\n{arguments}\n"))["net"]


def refused(folder):
    with pytest.raises(ConfigurationError) as caught:
        build(folder)
    [problem] = caught.value.problems
    return problem.removeprefix(f"{folder.path / 'model.toml'}: ")


def test_arguments_go_to_the_factory(tmp_path):
    assert build(given(tmp_path, "num_classes = 3, side = 2"))[2].weight.shape == (3, 48)


def test_they_go_to_a_class_that_is_its_own_factory(tmp_path):
    folder = given(tmp_path, "depth = 1, num_classes = 3")
    card = folder.path / "model.toml"
    card.write_text(card.read_text().replace("architecture:tiny", "architecture:Net"))
    assert build(find_models(tmp_path)["tiny"])[2].out_features == 3


def test_they_go_to_torchvisions_models(tmp_path):
    model = load(torchvisions(tmp_path, "resnet18", "num_classes = 3\nzero_init_residual = true"))
    assert model.adapter.raw[0].shape == (3,)
    assert model.module.layer1[0].bn2.weight.abs().max() == 0


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_they_win_over_what_is_said_for_two_of_torchvisions_models(tmp_path, name):
    module = build(torchvisions(tmp_path, name, "num_classes = 3\ntransform_input = true\naux_logits = false"))
    assert (module.fc.out_features, module.transform_input) == (3, True)


REFUSED = {
    "a key that it has not": (
        {"arguments": "width = 2"},
        "tiny() of architecture.py has no parameter width; its parameters are num_classes, side",
    ),
    "a key that is spelt wrong": (
        {"arguments": "num_clases = 2"},
        "tiny() of architecture.py has no parameter num_clases; did you mean num_classes?",
    ),
    "a key where it takes none": (
        {"arguments": "width = 2", "parameters": "", "returned": "Net(1)"},
        "tiny() of architecture.py has no parameter width; leave it out",
    ),
    "a key that is handed on": (
        {"arguments": "sides = 2", "parameters": "**more", "returned": "Net(1, **more)"},
        "tiny() of architecture.py has no parameter sides; did you mean side?",
    ),
    "one that is missing": (
        {"arguments": "", "parameters": "num_classes"},
        "tiny() of architecture.py needs num_classes, without a default; "
        "write [architecture_arguments] on the card, and num_classes = … below it",
    ),
    "several that are missing": (
        {"arguments": "num_classes = 2", "parameters": "num_classes, side, *, depth"},
        "tiny() of architecture.py needs side, depth, without a default; "
        "write [architecture_arguments] on the card, and side = …, depth = … below it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_with_the_factory_is_told_by_its_key(tmp_path, name):
    options, words = REFUSED[name]
    assert refused(given(tmp_path, **options)) == f"architecture_arguments: {words}"


def test_a_type_error_of_the_factorys_own_is_told_as_it_is(tmp_path):
    problem = refused(given(tmp_path, "", "num_classes=3", "Net(1, sides=2)"))
    assert problem.startswith("architecture: tiny() of architecture.py raised TypeError: ")


def test_a_key_that_torchvisions_model_has_not_is_told_with_those_that_it_has(tmp_path):
    assert refused(torchvisions(tmp_path, "resnet18", "classes = 3")) == (
        "architecture_arguments: resnet18() of torchvision has no parameter classes; did you mean num_classes?"
    )
    assert refused(torchvisions(tmp_path / "other", "resnet18", "x = 3")) == (
        "architecture_arguments: resnet18() of torchvision has no parameter x; its parameters are num_classes, "
        "zero_init_residual, groups, width_per_group, replace_stride_with_dilation, norm_layer"
    )


@pytest.mark.parametrize("key", ["weights", "pretrained"])
def test_weights_are_no_argument_of_torchvisions_models(tmp_path, key):
    assert refused(torchvisions(tmp_path, "resnet18", f"{key} = true")) == (
        f"architecture_arguments: {key} is not an argument of the architecture here; "
        'write weights = "torchvision:…" on the card'
    )


def test_torchvisions_weights_of_another_number_of_classes_are_told(tmp_path):
    assert refused(torchvisions(tmp_path, "resnet18", "num_classes = 3", "torchvision:ResNet18_Weights.DEFAULT")) == (
        "architecture_arguments: num_classes = 3, but ResNet18_Weights.DEFAULT are weights of 1000 classes; "
        "leave num_classes out, or name weights that were trained for 3"
    )


def test_a_model_that_is_made_already_is_refused(tmp_path):
    code = CODE.format(parameters="", returned="None") + "\n\ntiny = Net(1)\n"
    assert refused(tiny(tmp_path, code=code)) == (
        "architecture: tiny of architecture.py is a Net that is made already, and each load makes its own; "
        "name its class, or a function that makes one: def make(): return Net(…)"
    )


def test_arguments_move_the_version(tmp_path):
    one, other = (load(given(tmp_path / text, arguments)) for text, arguments in (("one", ""), ("other", "side = 4")))
    assert one.seal == other.seal
    assert one.version != other.version
