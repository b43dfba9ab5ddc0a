"""A model that cannot take pictures is told what this version serves, and what it seems to take itself."""

import pytest
import torch

from service.errors import ConfigurationError
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
SERVES = "this version serves picture classifiers: forward gets (N, 3, H, W) float32 and must give (N, classes)"
#: First layer, width of the last one, what comes before that; the exception, and what the model is told to take.
NETS = {
    "text": ("nn.Embedding(100, 8)", 8, "self.first(x)", "RuntimeError", "its layer first (Embedding) takes token ids"),
    "text with a mask": (
        "nn.Embedding(100, 8)",
        8,
        "self.first(x)",
        "TypeError",
        "its layer first (Embedding) takes token ids",
    ),
    "bags of words": (
        "nn.EmbeddingBag(100, 8)",
        8,
        "self.first(x)",
        "ValueError",
        "its layer first (EmbeddingBag) takes token ids",
    ),
    "sound": (
        "nn.Conv1d(1, 8, 3)",
        8,
        "self.first(x)",
        "RuntimeError",
        "its layer first (Conv1d) takes signals, (N, 1, L)",
    ),
    "video": (
        "nn.Conv3d(4, 8, 3)",
        8,
        "self.first(x)",
        "RuntimeError",
        "its layer first (Conv3d) takes volumes, (N, 4, D, H, W)",
    ),
    "sequences": (
        "nn.LSTM(16, 8)",
        8,
        "self.first(x)[0]",
        "ValueError",
        "its layer first (LSTM) takes sequences, (N, L, 16)",
    ),
    "tables": (
        "nn.Linear(20, 8)",
        8,
        "self.first(x)",
        "RuntimeError",
        "its layer first (Linear) takes rows of 20 numbers",
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
        first_forward(torch.nn.Linear(7, 5), torch.zeros(1, 3, 8, 8), tmp_path / "model.toml")
    [problem] = caught.value.problems
    assert problem.endswith("; a Linear takes rows of 7 numbers")


def test_a_model_that_takes_pictures_is_told_of_its_own_error(tmp_path):
    code = (
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def forward(self, x):\n        raise ValueError('dark')\n"
    )
    tiny_at(tmp_path, code=f"{code}\n\ndef tiny():\n    return Net()\n")
    with pytest.raises(ConfigurationError) as caught:
        load(tiny(tmp_path))
    [problem] = caught.value.problems
    assert f"forward of (1, 3, 8, 8) raised ValueError: dark (architecture.py:6); {SERVES}" in problem
