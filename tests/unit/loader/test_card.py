"""What a card says, what it leaves out, and how its faults are told."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import ConfigurationError
from service.loader.card import canonical, read_card
from service.tasks.inputs.spec import InputSpec

LEAST = """\
weights = "random:1"
architecture = "torchvision:resnet18"
"""
FULL = """\
task = "classification"
weights = "file:weights.safetensors"
checkpoint_key = "state_dict_ema"
strip_prefix = "module."
architecture = "architecture:make"
activation = "sigmoid"
allow_constant = true
labels = ["cat", "dog"]
required = false
classifier = "head"
dtype = "bfloat16"
optimize = "eager"

[input]
resize = 300
crop = 288
interpolation = "bicubic"
mean = [127, 128.5, 129]
std = [1, 2, 3.5]

[batching]
max_batch_size = 16

[proof]
waive = { batch-invariant = "sorts the batch" }

[architecture_arguments]
width = 2

[training]
frozen = ["features"]
epochs = 3
"""


def read(folder, text):
    (folder / "model.toml").write_text(text)
    return read_card(folder)


def faults(folder, text):
    with pytest.raises(ConfigurationError) as caught:
        read(folder, text)
    return caught.value.problems


def test_a_full_card_is_read_as_it_was_written(tmp_path):
    card = read(tmp_path, FULL)
    assert card.model_dump() == {
        "task": "classification",
        "weights": "file:weights.safetensors",
        "checkpoint_key": "state_dict_ema",
        "strip_prefix": "module.",
        "architecture_arguments": {"width": 2},
        "activation": "sigmoid",
        "allow_constant": True,
        "architecture": "architecture:make",
        "labels": ["cat", "dog"],
        "values": None,
        "inputs": {},
        "outputs": {},
        "required": False,
        "proof": {"waive": {"batch-invariant": "sorts the batch"}},
        "classifier": "head",
        "dtype": "bfloat16",
        "optimize": "eager",
        "input": {
            "resize": 300,
            "crop": 288,
            "interpolation": "bicubic",
            "mean": (127, 128.5, 129),
            "std": (1, 2, 3.5),
        },
        "batching": {"max_batch_size": 16},
        "training": {"frozen": ["features"], "epochs": 3},
    }


def test_a_card_of_two_lines_gets_the_input_of_imagenet_and_is_required(tmp_path):
    card = read(tmp_path, LEAST)
    assert card.task == "classification"
    assert card.labels is None
    assert card.required
    assert card.classifier is None
    assert card.training == {}
    assert card.batching.max_batch_size is None
    assert (card.input.resize, card.input.crop, card.input.interpolation) == (256, 224, "bilinear")
    assert card.input.mean == pytest.approx([255 * value for value in (0.485, 0.456, 0.406)])
    assert card.input.std == pytest.approx([255 * value for value in (0.229, 0.224, 0.225)])


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("weights", ("file", "a:b.pth")),
        ("architecture", ("architecture", "make")),
    ],
)
def test_a_key_is_split_at_its_first_colon(tmp_path, key, parts):
    card = read(tmp_path, 'weights = "file:a:b.pth"\narchitecture = "architecture:make"\n')
    assert card.part(key) == parts


@pytest.mark.parametrize(
    ("waived", "words"),
    [
        ('eval = "it is fine"', "'eval' cannot be waived; only repeatable and batch-invariant can"),
        ('repeatable = " "', "repeatable needs a reason"),
        ("repeatable = true", "proof.waive.repeatable: true is not text; write it in quotes"),
    ],
)
def test_a_waiver_that_cannot_be_is_refused_in_words(tmp_path, waived, words):
    card = f'weights = "random:1"\narchitecture = "torchvision:resnet18"\n[proof]\nwaive = {{ {waived} }}\n'
    [fault] = faults(tmp_path, card)
    assert "model.toml: proof" in fault
    assert words in fault


@pytest.mark.parametrize(
    ("text", "key", "close"),
    [
        (LEAST + 'lables = "file:x.txt"', "lables", "labels"),
        (LEAST + "[input]\ncroop = 224", "input.croop", "crop"),
        (LEAST + "[batching]\nmax_batchsize = 8", "batching.max_batchsize", "max_batch_size"),
    ],
)
def test_an_unknown_key_is_told_with_its_file_and_the_key_it_is_closest_to(tmp_path, text, key, close):
    assert faults(tmp_path, text) == [f"{tmp_path / 'model.toml'}: {key}: there is no such key; did you mean {close}?"]


def test_an_unknown_key_that_is_like_no_other_is_told_with_those_there_are(tmp_path):
    [fault] = faults(tmp_path, LEAST + "[input]\nzzz = 1")
    assert fault.endswith("input.zzz: there is no such key; there are resize, crop, interpolation, mean, std")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('task = "detection"\n' + LEAST, "task"),
        (LEAST.replace("random:1", "resnet18.pth"), "weights"),
        (LEAST.replace("random:1", "random:"), "weights"),
        (LEAST.replace("torchvision:resnet18", "resnet18"), "architecture"),
        (LEAST.replace("torchvision:resnet18", "a-b:make"), "architecture"),
        ('architecture = "torchvision:resnet18"', "weights"),
        ('weights = "random:1"', "architecture"),
        (LEAST + "[input]\nresize = 0\ncrop = 0", "input.resize"),
        (LEAST + "[input]\nresize = 4097", "input.resize"),
        (LEAST + '[input]\ninterpolation = "lanczos"', "input.interpolation"),
        (LEAST + "[input]\nmean = [1, 2]", "input.mean"),
        (LEAST + "[input]\nstd = [1, 0, 1]", "input.std.1"),
        (LEAST + "[batching]\nmax_batch_size = 0", "batching.max_batch_size"),
        (LEAST + "[batching]\nmax_batch_size = 1025", "batching.max_batch_size"),
        (LEAST + 'required = "perhaps"', "required"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_its_file_and_key(tmp_path, text, key):
    assert faults(tmp_path, text)[0].startswith(f"{tmp_path / 'model.toml'}: {key}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("input = 3", "input: 3 is not a table; give it keys of its own"),
        ("[input]\nresize = [1]", "input.resize: [1] is no size; give [height, width] to stretch to, or one number"),
        ("[input]\nresize = [100, 0]", "input.resize.1: 0 is too small; it must be at least 1"),
        ('[input]\nresize = "all"', "input.resize: 'all' is not a whole number; give one"),
        (
            "[input]\nresize = [32, 64]\ncrop = 32",
            "input: resize = [32, 64] stretches each picture to that size and crop = 32 has nothing to do; leave crop "
            "out, or give resize one number, for the shorter side",
        ),
        (
            "[input]\nmean = [1, 2]",
            "input.mean: has length 2; give three numbers, red, green and blue, or one for a grey model",
        ),
        (
            "[input]\nmean = [127]",
            "input: mean has length 1 and std 3; give each three numbers, red, green and blue, or each one for a grey "
            "model",
        ),
        ("[input]\nmean = 3", "input.mean: 3 is not a list; write it in brackets"),
        ("[input]\nstd = [1, nan, 1]", "input.std.1: nan is not a finite number; give one"),
        ("[input]\nstd = [1, 0, 1]", "input.std.1: 0 is too small; it must be more than 0"),
        (
            "labels = 3",
            "labels: 3 is not valid; it must be torchvision:imagenet, file:NAME, or a list of names in quotes",
        ),
        ('required = "perhaps"', "required: 'perhaps' is neither true nor false; write one of them"),
        ('dtype = "fp16"', "dtype: 'fp16' is not one of its values; choose float32, bfloat16 or float16"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_what_can(tmp_path, text, words):
    assert faults(tmp_path, LEAST + text) == [f"{tmp_path / 'model.toml'}: {words}"]


@pytest.mark.parametrize(
    ("mean", "std", "right"),
    [
        (
            "[0.485, 0.456, 0.406]",
            "[0.229, 0.224, 0.225]",
            "mean = [123.675, 116.28, 103.53] and std = [58.395, 57.12, 57.375]",
        ),
        ("[0.5, 0.5, 0.5]", "[0.5, 0.5, 0.5]", "mean = [127.5, 127.5, 127.5] and std = [127.5, 127.5, 127.5]"),
        ("[0, 0, 0]", "[0.5, 0.5, 0.5]", "mean = [0, 0, 0] and std = [127.5, 127.5, 127.5]"),
        ("[127, 127, 127]", "[0.5, 0.5, 0.5]", "mean = [127, 127, 127] and std = [127.5, 127.5, 127.5]"),
        ("[0.5, 0.5, 0.5]", "[58, 57, 57]", "mean = [127.5, 127.5, 127.5] and std = [58, 57, 57]"),
        ("[0.1307]", "[0.3081]", "mean = [33.3285] and std = [78.5655]"),
    ],
)
def test_numbers_on_a_scale_of_0_to_1_are_refused_with_the_right_lines(tmp_path, mean, std, right):
    assert faults(tmp_path, f"{LEAST}[input]\nmean = {mean}\nstd = {std}") == [
        f"{tmp_path / 'model.toml'}: input: mean and std are on a scale of 0 to 1, and must be of pixels from 0 to "
        f"255; write {right}"
    ]
    repaired = "\n".join(right.split(" and "))
    assert read(tmp_path, f"{LEAST}[input]\n{repaired}").input.shape == (mean.count(",") + 1, 224, 224)


@pytest.mark.parametrize("std", ["[255, 255, 255]", "[1, 1, 1]"])
def test_a_mean_of_zero_may_be_one_of_pixels(tmp_path, std):
    assert read(tmp_path, f"{LEAST}[input]\nmean = [0, 0, 0]\nstd = {std}").input.mean == (0, 0, 0)


@pytest.mark.parametrize(
    ("lines", "shape"),
    [
        ("crop = 200", (3, 200, 200)),
        ("resize = [32, 64]", (3, 32, 64)),
        ("mean = [127]\nstd = [64]", (1, 224, 224)),
        ("resize = [64, 32]\nmean = [127]\nstd = [64]", (1, 64, 32)),
    ],
)
def test_an_example_has_the_shape_that_the_card_says(tmp_path, lines, shape):
    spec = read(tmp_path, f"{LEAST}[input]\n{lines}").input
    assert spec.shape == shape
    assert InputSpec(**msgspec.msgpack.decode(msgspec.msgpack.encode(spec.model_dump()))) == spec


def test_a_crop_larger_than_the_resized_picture_does_not_fit_in_it(tmp_path):
    [fault] = faults(tmp_path, LEAST + "[input]\nresize = 224\ncrop = 225")
    assert "crop = 225 is larger than resize = 224" in fault


def test_a_crop_may_be_the_whole_resized_picture(tmp_path):
    assert read(tmp_path, LEAST + "[input]\nresize = 224\ncrop = 224").input.crop == 224


def test_all_faults_of_a_card_are_told_at_once(tmp_path):
    text = """\
    weights = "nowhere"
    colour = "blue"
    [input]
    resize = -1
    std = [0, 1, 1]
    [batching]
    max_batch_size = "many"
    """
    keys = [fault.removeprefix(f"{tmp_path / 'model.toml'}: ").partition(":")[0] for fault in faults(tmp_path, text)]
    assert keys == ["weights", "architecture", "input.resize", "input.std.0", "batching.max_batch_size", "colour"]


def test_a_folder_without_a_card_is_told_what_it_lacks(tmp_path):
    with pytest.raises(ConfigurationError, match=r"model\.toml: file: is missing"):
        read_card(tmp_path)


def test_a_card_that_is_a_folder_cannot_be_read(tmp_path):
    (tmp_path / "model.toml").mkdir()
    with pytest.raises(ConfigurationError, match=r"model\.toml: file: cannot be read: Is a directory"):
        read_card(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b'weights = "random:1', b"x = " + b"[" * 100_000],
    ids=["a string without its end", "a hundred thousand brackets"],
)
def test_a_card_that_is_no_toml_is_told_so(tmp_path, content):
    (tmp_path / "model.toml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"model\.toml: file: is not valid TOML"):
        read_card(tmp_path)


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text("[]{}=\"'.,\n ab1-:#"))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_makes_reading_a_card_raise_anything_else(tmp_path, text):
    with pytest.raises(ConfigurationError):
        read(tmp_path, text)


def test_the_canonical_form_depends_neither_on_the_order_of_keys_nor_on_layout(tmp_path):
    one = 'weights = "random:1"\narchitecture = "a:b"\n[input]\nresize = 64\ncrop = 32\n[training]\nb = 1\na = 2\n'
    other = """
    # the same, said otherwise
    architecture = 'a:b'
    training = { a = 2, b = 1 }
    weights      = 'random:1'
    input.crop   = 0x20
    input.resize = 64
    """
    assert canonical(read(tmp_path, one)) == canonical(read(tmp_path, other))


def test_the_canonical_form_of_a_card_that_spells_a_default_out_is_the_same(tmp_path):
    assert canonical(read(tmp_path, LEAST)) == canonical(read(tmp_path, LEAST + "required = true\n[input]\nresize=256"))


@pytest.mark.parametrize("line", ['labels = "file:x"', "required = false", 'classifier = "fc"', "training.lr = 0.1"])
def test_the_canonical_form_changes_with_what_a_card_says(tmp_path, line):
    assert canonical(read(tmp_path, LEAST)) != canonical(read(tmp_path, LEAST + line))
