"""`[inputs]`, `[outputs]` and `values`: which task has which, and what they do to a version."""

import pytest

from service.errors import ConfigurationError
from service.loader.card import MOST_TENSORS, canonical, read_card
from service.signature import TensorSpec

LEAST = """\
weights = "random:1"
architecture = "net:make"
"""
TENSOR = f'task = "tensor"\n{LEAST}'
FULL = f"""\
{TENSOR}
[inputs.ids]
dtype = "int64"
shape = [4]
range = [0, 99]

[inputs.x]
shape = [2, 3]
batch_axis = 1

[outputs.y]
dtype = "bfloat16"
shape = []
finite = false
"""


def read(folder, text):
    (folder / "model.toml").write_text(text)
    return read_card(folder)


def fault(folder, text):
    with pytest.raises(ConfigurationError) as caught:
        read(folder, text)
    [problem] = caught.value.problems
    return problem.removeprefix(f"{folder / 'model.toml'}: ")


def test_tensors_are_read_in_the_order_of_the_card(tmp_path):
    card = read(tmp_path, FULL)
    assert card.input_specs == [
        TensorSpec("ids", "int64", (4,), range=(0, 99)),
        TensorSpec("x", "float32", (2, 3), 1),
    ]
    assert card.output_specs == [TensorSpec("y", "bfloat16", (), finite=False)]
    assert card.input_kind == "tensors"


def test_without_inputs_a_card_is_about_pictures(tmp_path):
    card = read(tmp_path, LEAST)
    assert (card.input_kind, card.input_specs, card.output_specs) == ("picture", [], [])


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_other_tasks_may_have_tensors_for_inputs(tmp_path, task):
    assert read(tmp_path, f'task = "{task}"\n{LEAST}[inputs.x]\nshape = [30]\n').input_kind == "tensors"


def test_a_regression_of_pictures_names_its_values(tmp_path):
    card = read(tmp_path, f'task = "regression"\nvalues = ["age", "height"]\n{LEAST}')
    assert (card.values, card.input_kind) == (["age", "height"], "picture")


X = "[inputs.x]\nshape = [3]\n"
FAULTS = {
    "a tensor model without inputs": (
        TENSOR,
        'task = "tensor" needs its inputs; give each a table, such as [inputs.x] with dtype = "float32" and shape = '
        "[16]",
    ),
    "both kinds of input": (
        f"{TENSOR}[input]\ncrop = 32\n{X}",
        "there are [input], for pictures, and [inputs], for tensors; leave out the one that does not apply",
    ),
    "labels of tensors": (
        f'labels = ["a"]\n{TENSOR}{X}',
        'labels is for task = "classification", and this card has task = "tensor"; leave it out',
    ),
    "labels of a regression": (
        f'task = "regression"\nlabels = ["a"]\n{LEAST}',
        'labels is for task = "classification", and this card has task = "regression"; leave it out',
    ),
    "an activation of tensors": (
        f'activation = "sigmoid"\n{TENSOR}{X}',
        'activation is for task = "classification", and this card has task = "tensor"; leave it out',
    ),
    "values of a classifier": (
        f'values = ["age"]\n{LEAST}',
        'values is for task = "regression", and this card has task = "classification"; leave it out',
    ),
    "outputs of a classifier": (
        f"{LEAST}[outputs.y]\nshape = [3]\n",
        'outputs is for task = "tensor", and this card has task = "classification"; leave it out',
    ),
    "a task that does not exist": (
        f'task = "tensors"\n{LEAST}',
        "task: 'tensors' is not one of its values; choose classification, regression or tensor",
    ),
    "an input without a shape": (
        f"{TENSOR}[inputs.x]\n",
        "inputs.x.shape: is missing; it must be the sizes of one example, without the batch, such as [16], or [] for a "
        "single number",
    ),
    "an input that is no table": (f"{TENSOR}[inputs]\nx = 3\n", "inputs.x: 3 is not a table; give it keys of its own"),
    "a range of one end": (
        f"{TENSOR}{X}range = [1]\n",
        "inputs.x.range.1: is missing; it must be the least and the largest value, such as [0, 1]",
    ),
    "a range that holds nothing": (
        f"{TENSOR}{X}range = [1, 0]\n",
        "inputs.x: range = [1, 0] holds no number; give the least and the largest value",
    ),
    "a range of an output": (
        f"{TENSOR}{X}[outputs.y]\nshape = [1]\nrange = [0, 1]\n",
        "outputs.y.range: there is no such key; there are dtype, shape, batch_axis, finite",
    ),
    "a key that is misspelt": (
        f"{TENSOR}{X}dtyp = 'int64'\n",
        "inputs.x.dtyp: there is no such key; did you mean dtype?",
    ),
    "a key of the card below an input": (
        f"{TENSOR}{X}required = false\n",
        "inputs.x.required: there is no such key; required belongs at the top of a card, above [inputs]",
    ),
    "a key of an input above it": (
        f"shape = [3]\n{TENSOR}{X}",
        "shape: there is no such key; shape belongs under [inputs.NAME]",
    ),
    "a name with a space": (
        f"{TENSOR}[inputs.'a b']\nshape = [3]\n",
        "inputs.a b: 'a b' cannot be a name; give letters, digits, _, . and -, the first a letter or _, at most 80",
    ),
    "no values": (
        f'task = "regression"\nvalues = []\n{LEAST}',
        "values: has 0 entries; give at least 1, or leave the key out",
    ),
    "too many inputs": (
        TENSOR + "".join(f"[inputs.x{number}]\nshape = [1]\n" for number in range(MOST_TENSORS + 1)),
        "inputs: has more than 64 entries; leave some out",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_does_not_fit_the_task_is_told_with_what_does(tmp_path, name):
    text, words = FAULTS[name]
    assert fault(tmp_path, text) == words


def test_the_order_of_inputs_and_of_outputs_is_part_of_a_version(tmp_path):
    """Where forward has other names, it tells which is which."""
    a, b = "[inputs.a]\nshape = [3]\n", "[inputs.b]\nshape = [3]\n"
    assert canonical(read(tmp_path, TENSOR + a + b)) != canonical(read(tmp_path, TENSOR + b + a))
    outputs = "[outputs.c]\nshape = [3]\n", "[outputs.d]\nshape = [3]\n"
    forwards, backwards = (canonical(read(tmp_path, TENSOR + a + "".join(each))) for each in (outputs, outputs[::-1]))
    assert forwards != backwards


def test_the_order_of_the_keys_of_an_input_is_not(tmp_path):
    one = f'{TENSOR}[inputs.a]\nshape = [3]\ndtype = "int64"\n'
    other = f"{TENSOR}[inputs.a]\ndtype = 'int64'\nbatch_axis = 0\nshape = [3]\n"
    assert canonical(read(tmp_path, one)) == canonical(read(tmp_path, other))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[inputs.ids]", "[inputs.id]"),
        ('dtype = "int64"', 'dtype = "int32"'),
        ("shape = [4]", "shape = [5]"),
        ("range = [0, 99]", "range = [0, 98]"),
        ("range = [0, 99]", ""),
        ("batch_axis = 1", "batch_axis = 2"),
        ("[outputs.y]", "[outputs.z]"),
        ("finite = false", "finite = true"),
        ("range = [0, 99]", "range = [-1, 99]"),
    ],
)
def test_all_that_is_said_of_a_tensor_is_part_of_a_version(tmp_path, old, new):
    assert FULL.count(old) == 1
    assert canonical(read(tmp_path, FULL)) != canonical(read(tmp_path, FULL.replace(old, new)))


def test_a_range_without_an_end_has_a_version_too(tmp_path):
    card = f"{TENSOR}{X}range = [0, inf]\n"
    assert canonical(read(tmp_path, card)) != canonical(read(tmp_path, card.replace("inf", "1")))
