"""A model whose first forward fails is told what it gets, and what it seems to take itself."""

import pytest
import torch

from service.errors import ConfigurationError
from service.loader.card import Card
from service.loader.first_forward import first_forward
from service.loader.load import load
from tests.support.tiny import tiny, tiny_at

CODE = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = {first}
        self.last = nn.Linear({width}, 5)

    def forward(self, x{more}):
        x = {before}
        return self.last(x.mean(1))


def tiny():
    return Net()
"""
SERVES = "this card serves pictures: forward gets (N, 3, H, W) float32 and must give one row for each"
TENSORS = '; set task = "tensor" and describe its inputs under [inputs.NAME]'
#: First layer, width of the last one, what comes before that; the exception, and what the model is told to take.
NETS = {
    "text": (
        "nn.Embedding(100, 8)",
        8,
        "self.first(x)",
        "RuntimeError",
        f"its layer first (Embedding) takes token ids{TENSORS}",
    ),
    "text with a mask": (
        "nn.Embedding(100, 8)",
        8,
        "self.first(x)",
        "TypeError",
        f"its layer first (Embedding) takes token ids{TENSORS}",
    ),
    "bags of words": (
        "nn.EmbeddingBag(100, 8)",
        8,
        "self.first(x)",
        "ValueError",
        f"its layer first (EmbeddingBag) takes token ids{TENSORS}",
    ),
    "sound": (
        "nn.Conv1d(1, 8, 3)",
        8,
        "self.first(x)",
        "RuntimeError",
        f"its layer first (Conv1d) takes signals, (N, 1, L){TENSORS}",
    ),
    "video": (
        "nn.Conv3d(4, 8, 3)",
        8,
        "self.first(x)",
        "RuntimeError",
        f"its layer first (Conv3d) takes volumes, (N, 4, D, H, W){TENSORS}",
    ),
    "sequences": (
        "nn.LSTM(16, 8)",
        8,
        "self.first(x)[0]",
        "ValueError",
        f"its layer first (LSTM) takes sequences, (N, L, 16){TENSORS}",
    ),
    "tables": (
        "nn.Linear(20, 8)",
        8,
        "self.first(x)",
        "RuntimeError",
        f"its layer first (Linear) takes rows of 20 numbers{TENSORS}",
    ),
    "grey pictures": (
        "nn.Conv2d(1, 8, 3)",
        8,
        "self.first(x)",
        "RuntimeError",
        "its layer first (Conv2d) takes grey pictures; write mean = [127.5] and std = [127.5] under [input], or its "
        "own numbers, and pictures become grey",
    ),
    "satellites": (
        "nn.Conv2d(13, 8, 3)",
        8,
        "self.first(x)",
        "RuntimeError",
        "its layer first (Conv2d) takes pictures of 13 channels",
    ),
    "pictures of another size": (
        "nn.Conv2d(3, 8, 3)",
        7,
        "self.first(x).flatten(1).unsqueeze(1)",
        "RuntimeError",
        "its layer last (Linear) takes 7 numbers and received 288; under [input] set resize and crop to the size that "
        "it was trained on",
    ),
    "a layer further in": (
        "nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(4, 8, 3))",
        8,
        "self.first(x)",
        "RuntimeError",
        "",
    ),
    "a fault between layers": (
        "nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, 8))",
        8,
        "self.first(x).view(7, -1)",
        "RuntimeError",
        "",
    ),
}


CARD = {"weights": "random:1", "architecture": "architecture:tiny"}


def told(root, name, weights):
    first, width, before, _, _ = NETS[name]
    more = ", attention_mask" if name == "text with a mask" else ""
    code = CODE.format(first=first, width=width, before=before, more=more)
    path = tiny_at(root, weights, code=code)
    if weights.startswith("file"):
        names: dict[str, object] = {}
        exec(code, names)
        torch.save(names["tiny"]().state_dict(), path / "weights.pth")
    with pytest.raises(ConfigurationError) as caught:
        load(tiny(root))
    [problem] = caught.value.problems
    return problem.removeprefix(f"{path / 'model.toml'}: ")


@pytest.mark.parametrize("weights", ["random:1", "file:weights.pth"])
@pytest.mark.parametrize("name", NETS)
def test_a_model_that_takes_no_pictures_is_told_what_is_served_and_what_it_seems_to_take(tmp_path, name, weights):
    problem = told(tmp_path, name, weights)
    *_, error, takes = NETS[name]
    count = 8 if weights == "random:1" else 1
    assert problem.startswith(f"architecture: forward of ({count}, 3, 8, 8) raised {error}: ")
    assert "(architecture.py:1" in problem or error == "TypeError"  # which is raised before forward begins
    assert problem.endswith(f"; {SERVES}{takes and '; '}{takes}")


def test_a_model_of_one_layer_is_told_by_that(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        first_forward(torch.nn.Linear(7, 5), [torch.zeros(1, 3, 8, 8)], {}, Card(**CARD), tmp_path / "model.toml")
    [problem] = caught.value.problems
    assert problem.endswith(f"; a Linear takes rows of 7 numbers{TENSORS}")


def test_a_model_that_takes_pictures_is_told_of_its_own_error(tmp_path):
    code = (
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def forward(self, x):\n        raise ValueError('dark')\n"
    )
    tiny_at(tmp_path, code=f"{code}\n\ndef tiny():\n    return Net()\n")
    with pytest.raises(ConfigurationError) as caught:
        load(tiny(tmp_path))
    [problem] = caught.value.problems
    assert f"forward of (1, 3, 8, 8) raised ValueError: dark (architecture.py:6); {SERVES}" in problem


def told_of_tensors(module, positional, by_name, folder):
    inputs = {name: {"shape": [*tensor.shape[1:]]} for name, tensor in by_name.items()} or {"x": {"shape": []}}
    card = Card(**CARD, task="tensor", inputs=inputs)
    with pytest.raises(ConfigurationError) as caught:
        first_forward(module, positional, by_name, card, folder / "model.toml")
    [problem] = caught.value.problems
    return problem.removeprefix(f"{folder / 'model.toml'}: ")


class ByName(torch.nn.Module):
    """Hands its one input, which it takes by name, to a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize(
    ("layer", "array", "advice"),
    [
        (
            torch.nn.Embedding(100, 8),
            torch.zeros(2, 7),
            'its layer layer (Embedding) takes token ids; give that input dtype = "int64"',
        ),
        (
            torch.nn.Embedding(100, 8),
            torch.full((2, 7), 100),
            "if they are ids of an embedding, set their range = [0, ROWS - 1] under [inputs.NAME]",
        ),
        (torch.nn.Linear(16, 8), torch.zeros(2, 7), "its layer layer (Linear) takes rows of 16 numbers"),
        (torch.nn.Conv1d(2, 8, 3), torch.zeros(2, 3, 16), "its layer layer (Conv1d) takes signals, (N, 2, L)"),
        (
            torch.nn.Conv2d(4, 8, 3),
            torch.zeros(2, 3, 16, 16),
            "its layer layer (Conv2d) takes 4 channels and received 3",
        ),
    ],
    ids=["floats to an embedding", "ids beyond it", "a linear layer", "signals", "pictures of other channels"],
)
def test_a_tensor_model_is_told_which_layer_takes_what(tmp_path, layer, array, advice):
    problem = told_of_tensors(ByName(layer), [], {"x": array}, tmp_path)
    assert problem.startswith(f"architecture: forward of x {tuple(array.shape)} raised ")
    assert problem.endswith(f"; {advice}")
    assert TENSORS not in problem


def test_a_tensor_model_that_fails_for_another_reason_is_told_where_to_look(tmp_path):
    problem = told_of_tensors(ByName(torch.nn.Identity()), [torch.zeros(2)], {"x": torch.zeros(2, 3)}, tmp_path)
    assert problem.startswith("architecture: forward of (2,), x (2, 3) raised TypeError: ")
    assert problem.endswith("; make [inputs.NAME] what forward takes: their names or order, dtypes and shapes")
