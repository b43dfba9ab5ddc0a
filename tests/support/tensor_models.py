"""Models of tensors, as people have them, each in a folder of its own: what issue 25's server must serve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

#: The code of every model, which lies beside each card as nets.py.
NETS = '''\
import torch
from torch import nn
from torch.nn import functional


class Scaled(nn.Module):
    """A multilayer perceptron behind the scaling of its table."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(30))
        self.register_buffer("std", torch.ones(30))
        self.layers = nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, features):
        return self.layers((features - self.mean) / self.std)


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(1000, 32), nn.Embedding(500, 32)
        self.user_tower, self.item_tower = nn.Linear(32, 16), nn.Linear(32, 16)

    def forward(self, user, items):
        one = self.user_tower(self.users(user)).unsqueeze(-1)
        return {"scores": (self.item_tower(self.items(items)) @ one).squeeze(-1)}


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1))
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(4, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Sigmoid()
        )

    def forward(self, image):
        return self.decoder(self.encoder(image))


class VoiceActivity(nn.Module):
    """Silero's detector for 16 kHz: 64 samples of context and 512 new ones, and the state of its LSTM."""

    def __init__(self):
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, 128, bias=False)
        self.conv1, self.conv2 = nn.Conv1d(129, 128, 3, 1, 1), nn.Conv1d(128, 64, 3, 2, 1)
        self.conv3, self.conv4 = nn.Conv1d(64, 64, 3, 2, 1), nn.Conv1d(64, 128, 3, 1, 1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, samples, h, c):
        padded = functional.pad(samples.unsqueeze(1), (0, 64), mode="reflect")
        real, imaginary = self.stft_conv(padded).split(129, dim=1)
        x = (real.square() + imaginary.square()).sqrt()
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = layer(x).relu()
        h, c = self.lstm_cell(x.squeeze(-1), (h, c))
        speech = self.final_conv(h.unsqueeze(-1).relu()).sigmoid().flatten(1).mean(1)
        return speech, h, c


class Three(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 5)

    def forward(self, x):
        scores = self.layer(x)
        return {"embedding": scores.tanh(), "best": scores.argmax(1), "score": scores.amax(1), "loss": None}


class Fahrenheit(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("ratio", torch.tensor(1.8))

    def forward(self, celsius):
        return celsius * self.ratio + 32


class Reader(nn.Module):
    """Reads a line of text: features of columns, and an LSTM over them whose batch is the second axis."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((4, 25)))
        self.lstm = nn.LSTM(32, 24, bidirectional=True)
        self.letters = nn.Linear(48, 37)

    def forward(self, line):
        columns = self.features(line).flatten(1, 2).permute(2, 0, 1)
        return self.letters(self.lstm(columns)[0]).log_softmax(-1)


def small():
    return nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 4))
'''

CARDS = {
    "breast_cancer": 'weights = "file:weights.pth"\narchitecture = "nets:Scaled"\n[inputs.features]\nshape = [30]\n',
    "recommender": """\
weights = "random:1"
architecture = "nets:TwoTowers"
[inputs.user]
dtype = "int64"
shape = []
range = [0, 999]
[inputs.items]
dtype = "int64"
shape = [20]
range = [0, 499]
""",
    "autoencoder": """\
weights = "random:1"
architecture = "nets:Autoencoder"
[inputs.image]
shape = [1, 28, 28]
range = [0, 1]
[outputs.image]
shape = [1, 28, 28]
""",
    "vad": """\
weights = "package:silero_vad/data/silero_vad_16k.safetensors"
architecture = "nets:VoiceActivity"
[inputs.samples]
shape = [576]
range = [-1, 1]
[inputs.h]
shape = [128]
[inputs.c]
shape = [128]
[outputs.speech]
shape = []
[outputs.h]
shape = [128]
[outputs.c]
shape = [128]
""",
    "three": 'weights = "random:1"\narchitecture = "nets:Three"\n[inputs.x]\nshape = [12]\n',
    "half": """\
weights = "random:1"
architecture = "nets:small"
dtype = "bfloat16"
[inputs.x]
dtype = "bfloat16"
shape = [16]
""",
    "fahrenheit": 'weights = "factory"\narchitecture = "nets:Fahrenheit"\n[inputs.celsius]\nshape = []\n',
    "reader": """\
weights = "random:1"
architecture = "nets:Reader"
[inputs.line]
shape = [1, 32, 100]
range = [0, 1]
[outputs.letters]
shape = [25, 37]
batch_axis = 1
""",
}


def make_tensor_models(root: Path, *names: str) -> Path:
    """A models folder with these models, or all."""
    for name in names or CARDS:
        folder = root / name
        folder.mkdir(parents=True)
        (folder / "model.toml").write_text(f'task = "tensor"\n{CARDS[name]}')
        (folder / "nets.py").write_text(NETS)
        if name == "breast_cancer":
            torch.save(trained().state_dict(), folder / "weights.pth")
    return root


def net(name: str) -> nn.Module:
    """A module of NETS, as its class makes it."""
    names: dict[str, object] = {}
    exec(NETS, names)
    return names[name]()  # type: ignore[operator]


def table() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's breast-cancer table: `(569, 30) float32` and `(569,) int64`."""
    features, target = load_breast_cancer(return_X_y=True)
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(target)


def trained() -> nn.Module:
    """The perceptron, trained on every second row in a second."""
    features, target = (each[::2] for each in table())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = net("Scaled")
        module.mean.copy_(features.mean(0))  # type: ignore[union-attr, operator]
        module.std.copy_(features.std(0))  # type: ignore[union-attr, operator]
        optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(features), target).backward()
            optimizer.step()
    return module.eval()
