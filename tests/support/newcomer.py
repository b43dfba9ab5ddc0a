"""What new users bring: models, requests and starts, each with the answer or the sentence that it gets.

`python -m tests.support.newcomer` prints the section of docs/models.md; tests/e2e/test_newcomer.py holds both to it.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors.torch
import torch
from torch import nn

from tests.support import nets

#: Ends the cards that have no table of their own for the input: the networks take pictures of 8 x 8 pixels.
INPUT = "[input]\nresize = 8\ncrop = 8\n"
FILE = 'weights = "file:weights.pth"'
NET = 'architecture = "nets:net"'
FACTORY = 'weights = "factory"'

Files = Callable[[Path], object]
State = dict[str, torch.Tensor]


def _none(folder: Path) -> None:
    """Add no file."""


@dataclass(frozen=True)
class Case:
    """A model of a new user's.

    Attributes:
        brings: what it is, in words.
        card: `model.toml`.
        says: the problem, or the finding, that the user reads; behind "…", its end.
        level: of a finding on a model that is served all the same.
        files: makes the files beside the card.
        right: the module whose outputs are the probabilities that must be answered.
    """

    brings: str
    card: str
    says: str = ""
    level: Literal["", "warning", "severe"] = ""
    files: Files = _none
    right: Callable[[], nn.Module] | None = None

    @property
    def is_served(self) -> bool:
        return bool(self.level or self.right)

    @property
    def text(self) -> str:
        return self.card if "[input]" in self.card else f"{self.card}\n{INPUT}"

    def make(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "model.toml").write_text(self.text)
        (folder / "nets.py").write_text(Path(nets.__file__).read_text())
        self.files(folder)


def _state(num_classes: int = 5, prefix: str = "") -> State:
    return {prefix + name: value for name, value in nets.trained(num_classes).state_dict().items()}


def _saved(content: object, name: str = "weights.pth") -> Files:
    return lambda folder: torch.save(content, folder / name)


def _bytes(content: bytes, name: str = "weights.pth") -> Files:
    return lambda folder: (folder / name).write_bytes(content)


def _cut(folder: Path) -> None:
    torch.save(_state(), folder / "weights.pth")
    (folder / "weights.pth").write_bytes((folder / "weights.pth").read_bytes()[:2000])


def _safetensors(folder: Path) -> None:
    safetensors.torch.save_file(_state(), folder / "model.bin")


def _cut_safetensors(folder: Path) -> None:
    (folder / "weights.pth").write_bytes(safetensors.torch.save(_state())[:2000])


def _npz(folder: Path) -> None:
    with (folder / "weights.pth").open("wb") as file:
        np.savez(file, weight=np.zeros(3))


def _scripted(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit")
        torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(192, 5))).save(folder / "weights.pth")


def _exported(folder: Path) -> None:
    program = torch.export.export(nets.net(), (torch.zeros(1, 3, 8, 8),))
    torch.export.save(program, folder / "weights.pth")


_INDEX = {"metadata": {}, "weight_map": {"1.weight": "model-1-of-2.safetensors", "1.bias": "model-2-of-2.safetensors"}}
_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
_CHECKPOINT = {"epoch": 3, "state_dict": _state(), "state_dict_ema": {k: v / 2 for k, v in _state().items()}}
_OPTIONS = argparse.Namespace(lr=0.1)
_ENDING = _state(prefix="model.")


def _half() -> nn.Module:
    module = nets.net()
    module.load_state_dict(_CHECKPOINT["state_dict_ema"])
    return nn.Sequential(module, nn.Softmax(1))


def _card(architecture: str, *lines: str, weights: str = FACTORY) -> str:
    return "\n".join([weights, f'architecture = "nets:{architecture}"', *lines])


HEADS = {
    "softmax": Case(
        "a model that ends in softmax",
        _card("softmax"),
        says=(
            'Outputs are all at least 0 and sum to 1: they are probabilities already; set activation = "none", to'
            " use them as they are."
        ),
    ),
    "softmax-declared": Case(
        'the same with `activation = "none"`', _card("softmax", 'activation = "none"'), right=nets.softmax
    ),
    "sigmoid": Case(
        "several labels at once, with a sigmoid at the end",
        _card("sigmoid"),
        says=(
            "Outputs are from 0 to 1 and do not sum to 1: they are probabilities already; set activation = "
            '"none", to use them as they are.'
        ),
    ),
    "sigmoid-declared": Case(
        'the same with `activation = "none"`', _card("sigmoid", 'activation = "none"'), right=nets.sigmoid
    ),
    "labels": Case(
        'logits of several labels at once, with `activation = "sigmoid"`',
        _card("trained", 'activation = "sigmoid"'),
        right=lambda: nn.Sequential(nets.trained(), nn.Sigmoid()),
    ),
    "small-logits": Case(
        "two logits that all lie between 0 and 1",
        _card("small_logits"),
        right=lambda: nn.Sequential(nets.small_logits(), nn.Softmax(1)),
    ),
    "logits-none": Case(
        'logits with `activation = "none"`',
        _card("trained", 'activation = "none"'),
        says=(
            '…so they are not probabilities, as activation = "none" says; set "softmax", or "sigmoid" for several '
            "labels at once."
        ),
    ),
    "log-softmax": Case("a model that ends in log_softmax", _card("log_softmax"), right=nets.softmax),
    "log-softmax-sigmoid": Case(
        'the same with `activation = "sigmoid"`',
        _card("log_softmax", 'activation = "sigmoid"'),
        says='Outputs are the logarithms of probabilities that sum to 1; set activation = "softmax".',
    ),
    "one-number": Case(
        "a model with one output",
        _card("one_number"),
        says=(
            "task: the model gives one number for each input, and the probability of a single class is always 1; "
            'for yes or no from one logit set activation = "sigmoid"; for a number set task = "regression"'
        ),
    ),
    "yes-or-no": Case(
        'one logit, with `activation = "sigmoid"`',
        _card("one_number", 'activation = "sigmoid"'),
        right=lambda: nn.Sequential(nets.one_number(), nn.Sigmoid()),
    ),
    "embedding": Case(
        "an embedding: vectors of length 1",
        _card("unit_vectors"),
        level="warning",
        says=("Every output is a unit vector, as an embedding is; probabilities of its components mean nothing."),
    ),
    "few-labels": Case(
        "five outputs and two labels",
        _card("trained", 'labels = ["a", "b"]'),
        says="labels: 2 labels for 5 classes; give 5, or leave labels out",
    ),
    "zeros": Case(
        "weights that are all zero",
        f"{FILE}\n{NET}",
        level="severe",
        files=_saved({k: v * 0 for k, v in _state().items()}),
        says=(
            "The answer does not depend on the input: every input that was tried gave the same one. Check that the "
            "trained weights were saved, or set allow_constant = true."
        ),
    ),
    "zeros-allowed": Case(
        "the same with `allow_constant = true`",
        f"{FILE}\n{NET}\nallow_constant = true",
        files=_saved({k: v * 0 for k, v in _state().items()}),
        level="warning",
        says=(
            "The answer does not depend on the input: every input that was tried gave the same one; the card allows it."
        ),
    ),
    "maps": Case(
        "a model of segmentation: a score a pixel",
        _card("whole_maps"),
        says="architecture: forward of (1, 3, 8, 8) gives (1, 5, 8, 8); it must give (1, classes)",
    ),
    "boxes": Case(
        "a model whose forward gives several things",
        _card("boxes"),
        says=(
            "architecture: forward of (1, 3, 8, 8) gives dict of boxes, masks, none of them called logits; it "
            "must give (1, classes)"
        ),
    ),
    "logits": Case("a `ModelOutput` with `logits`, as transformers gives", _card("model_output"), right=nets.softmax),
}

WEIGHTS = {
    "random": Case(
        "`random:7` on a card",
        _card("net", weights='weights = "random:7"'),
        level="warning",
        says='With weights = "random:7" the model is untrained, so its answers mean nothing.',
    ),
    "from-pretrained": Case(
        'a factory that loads its own weights, with `weights = "factory"`', _card("trained"), right=nets.softmax
    ),
    "new-head": Case(
        "a factory that loads none, or not all",
        _card("net"),
        level="warning",
        says=("The factory draws 2 of 2 tensors by chance (1.weight, 1.bias); what answers owe to them means nothing."),
    ),
    "module": Case(
        "a checkpoint of DataParallel",
        f"{FILE}\n{NET}",
        files=_saved(_state(prefix="module.")),
        says='weights: all 2 keys begin with "module."; set strip_prefix = "module."',
    ),
    "module-stripped": Case(
        'the same with `strip_prefix = "module."`',
        f'{FILE}\n{NET}\nstrip_prefix = "module."',
        files=_saved(_state(prefix="module.")),
        right=nets.softmax,
    ),
    "lightning": Case(
        "a Lightning checkpoint",
        f"{FILE}\n{NET}",
        files=_saved({"state_dict": _state(prefix="model.") | {"loss.weight": torch.ones(5)}, "epoch": 3}),
        says='weights: 2 of 3 keys begin with "model."; set strip_prefix = "model."',
    ),
    "inner": Case(
        "the weights of the inner model alone",
        f'{FILE}\narchitecture = "nets:softmax"',
        files=_saved(_state()),
        says=(
            'weights: all 2 keys lack the "model." that the architecture\'s begin with; save the state_dict of the'
            " whole model, or have the factory return its model"
        ),
    ),
    "wrong-prefix": Case(
        "a `strip_prefix` that is not there",
        f'{FILE}\n{NET}\nstrip_prefix = "net."',
        files=_saved(_state()),
        says=(
            'strip_prefix: no key of the weights begins with "net."; they are 1.weight, 1.bias; correct it, or '
            "leave it out"
        ),
    ),
    "averaged": Case(
        "a checkpoint with `state_dict` and `state_dict_ema`",
        f"{FILE}\n{NET}",
        files=_saved(_CHECKPOINT),
        says=(
            "weights: weights.pth holds 2 state_dicts: state_dict (2 tensors, of which 2 fit the architecture), "
            "state_dict_ema (2 tensors, of which 2 fit the architecture); choose one on the card: checkpoint_key "
            '= "state_dict" or checkpoint_key = "state_dict_ema"'
        ),
    ),
    "averaged-chosen": Case(
        'the same with `checkpoint_key = "state_dict_ema"`',
        f'{FILE}\n{NET}\ncheckpoint_key = "state_dict_ema"',
        files=_saved(_CHECKPOINT),
        right=_half,
    ),
    "misspelt-key": Case(
        "a `checkpoint_key` that is not there",
        f'{FILE}\n{NET}\ncheckpoint_key = "ema"',
        files=_saved(_CHECKPOINT),
        says=(
            'checkpoint_key: "ema" of weights.pth is not there; there are state_dict (2 tensors, of which 2 fit '
            "the architecture), state_dict_ema (2 tensors, of which 2 fit the architecture)"
        ),
    ),
    "needless-key": Case(
        "a `checkpoint_key` without a file",
        _card("trained", 'checkpoint_key = "ema"'),
        says='checkpoint_key: is for a file of weights, and weights = "factory" names none; leave it out',
    ),
    "optimizer": Case(
        "a file that holds the optimizer alone",
        f"{FILE}\n{NET}",
        files=_saved({"optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "epoch": 3}),
        says=(
            "weights: holds no state_dict (names to tensors); its keys are optimizer (a dict), epoch (an int); "
            "save it with torch.save(model.state_dict(), …) or as .safetensors"
        ),
    ),
    "whole": Case(
        "a whole model, saved with `torch.save(model, …)`",
        f"{FILE}\n{NET}",
        files=_saved(nets.net()),
        says=(
            "weights: holds a whole model, a pickled torch.nn.modules.container.Sequential, and unpickling it "
            'could run code; where it was trained, run model = torch.load("weights.pth", weights_only=False) and '
            'torch.save(model.state_dict(), "weights.pth")'
        ),
    ),
    "options": Case(
        "a checkpoint with the options of its training",
        f"{FILE}\n{NET}",
        files=_saved({"state_dict": _state(), "args": _OPTIONS}),
        says=(
            "weights: holds more than tensors: it needs argparse.Namespace, and unpickling that could run code; "
            'where it was trained, save the state_dict alone: torch.save(torch.load("weights.pth", '
            'weights_only=False)["state_dict"], "weights.pth")'
        ),
    ),
    "classes": Case(
        "weights of five classes for three",
        f"{FILE}\n{NET}\narchitecture_arguments = {{ num_classes = 3 }}",
        files=_saved(_state()),
        says=(
            "weights: of another shape: 1.weight is (5, 192), the architecture needs (3, 192), 1.bias is (5,), "
            "the architecture needs (3,); use weights that were saved from this architecture, or change "
            "[architecture_arguments]"
        ),
    ),
    "bin": Case(
        "safetensors that are called `model.bin`",
        f'weights = "file:model.bin"\n{NET}',
        files=_safetensors,
        right=nets.softmax,
    ),
    "tar": Case(
        "a file that is called `last.pth.tar`",
        f'weights = "file:last.pth.tar"\n{NET}',
        files=_saved({"state_dict": _state()}, "last.pth.tar"),
        right=nets.softmax,
    ),
    "scripted": Case(
        "TorchScript",
        f"{FILE}\n{NET}",
        files=_scripted,
        says=(
            "weights: is a TorchScript archive, a program with its weights; of the model that it was made from, "
            "save it with torch.save(model.state_dict(), …) or as .safetensors"
        ),
    ),
    "exported": Case(
        "a `.pt2` of torch.export",
        f"{FILE}\n{NET}",
        files=_exported,
        says=(
            "weights: is a .pt2 archive of torch.export, a program with its weights; of the model that it was "
            "made from, save it with torch.save(model.state_dict(), …) or as .safetensors"
        ),
    ),
    "pointer": Case(
        "a pointer of git-lfs",
        f"{FILE}\n{NET}",
        files=_bytes(_POINTER),
        says="weights: is a pointer of git-lfs, not the file itself; run git lfs pull",
    ),
    "cut": Case(
        "a file that is cut short",
        f"{FILE}\n{NET}",
        files=_cut,
        says="weights: is a zip file that is cut short or damaged, at 2,000 bytes; copy or download it again",
    ),
    "cut-safetensors": Case(
        "safetensors that are cut short",
        f"{FILE}\n{NET}",
        files=_cut_safetensors,
        says=(
            "weights: is a file of safetensors that is cut short: 2,000 of 3,996 bytes are there; copy or "
            "download it again"
        ),
    ),
    "shards": Case(
        "the index of a model in shards",
        f"{FILE}\n{NET}",
        files=_bytes(json.dumps(_INDEX).encode()),
        says=(
            "weights: is the index of 2 shards (model-1-of-2.safetensors, model-2-of-2.safetensors), which hold "
            "the tensors; merge them: state |= safetensors.torch.load_file(shard) for each, from state = {} on, "
            'then safetensors.torch.save_file(state, "weights.safetensors")'
        ),
    ),
    "empty": Case(
        "an empty file", f"{FILE}\n{NET}", files=_bytes(b""), says="weights: is empty; copy or download it again"
    ),
    "page": Case(
        "a web page that was downloaded",
        f"{FILE}\n{NET}",
        files=_bytes(b"<!DOCTYPE html><html></html>"),
        says=(
            "weights: is a web page in place of the weights; download the file itself; the page may say why it "
            "did not come"
        ),
    ),
    "hdf5": Case(
        "weights of Keras",
        f"{FILE}\n{NET}",
        files=_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)),
        says=(
            "weights: is an HDF5 file, as Keras and TensorFlow save models; this version serves PyTorch models; "
            "save it with torch.save(model.state_dict(), …) or as .safetensors"
        ),
    ),
    "onnx": Case(
        "ONNX",
        f"{FILE}\n{NET}",
        files=_bytes(b"\x08\x0a\x12\x07pytorch\x1a\x052.1.0" + bytes(99)),
        says=(
            "weights: is an ONNX model; this version serves PyTorch models; save it with "
            "torch.save(model.state_dict(), …) or as .safetensors"
        ),
    ),
    "gguf": Case(
        "a GGUF for llama.cpp",
        f"{FILE}\n{NET}",
        files=_bytes(b"GGUF\x03\0\0\0" + bytes(99)),
        says=(
            "weights: is a GGUF file, a language model for llama.cpp; this version serves PyTorch models; save it"
            " with torch.save(model.state_dict(), …) or as .safetensors"
        ),
    ),
    "npz": Case(
        "an `.npz` of numpy",
        f"{FILE}\n{NET}",
        files=_npz,
        says=(
            "weights: is an .npz of numpy; this version serves PyTorch models; save it with "
            "torch.save(model.state_dict(), …) or as .safetensors"
        ),
    ),
    "folder": Case(
        "a folder in place of the file",
        f"{FILE}\n{NET}",
        files=lambda folder: (folder / "weights.pth").mkdir(),
        says="weights: weights.pth is a folder; name the file of weights in it",
    ),
    "missing": Case(
        "no file at all",
        f"{FILE}\n{NET}",
        says="weights: weights.pth is not in the folder; put it there or correct the name",
    ),
}

CODE = {
    "arguments": Case(
        "`[architecture_arguments]` for torchvision's resnet18 with three classes",
        'weights = "random:1"\narchitecture = "torchvision:resnet18"\narchitecture_arguments = { num_classes = 3 }\n'
        "[input]\nresize = 40\ncrop = 32\n",
        level="warning",
        says='With weights = "random:1" the model is untrained, so its answers mean nothing.',
    ),
    "misspelt": Case(
        "an argument that is misspelt",
        _card("net", "architecture_arguments = { num_clases = 3 }"),
        says="architecture_arguments: net() of nets.py has no parameter num_clases; did you mean num_classes?",
    ),
    "needed": Case(
        "an argument that is missing",
        _card("needs_classes"),
        says=(
            "architecture_arguments: needs_classes() of nets.py needs num_classes, without a default; write "
            "[architecture_arguments] on the card, and num_classes = … below it"
        ),
    ),
    "own-classes": Case(
        "torchvision's weights with another number of classes",
        'weights = "torchvision:ResNet18_Weights.DEFAULT"\narchitecture = "torchvision:resnet18"\n'
        "architecture_arguments = { num_classes = 3 }",
        says=(
            "architecture_arguments: num_classes = 3, but ResNet18_Weights.DEFAULT are weights of 1000 classes; "
            "leave num_classes out, or name weights that were trained for 3"
        ),
    ),
    "pretrained": Case(
        "`pretrained = true`",
        'weights = "random:1"\narchitecture = "torchvision:resnet18"\narchitecture_arguments = { pretrained = true }',
        says=(
            "architecture_arguments: pretrained is not an argument of the architecture here; write weights = "
            '"torchvision:…" on the card'
        ),
    ),
    "installed": Case(
        "a factory of an installed package",
        'weights = "random:1"\narchitecture = "torchvision.models.squeezenet:squeezenet1_1"\n'
        "[input]\nresize = 40\ncrop = 40\n",
        level="warning",
        says='With weights = "random:1" the model is untrained, so its answers mean nothing.',
    ),
    "not-installed": Case(
        "a factory of a package that is not installed",
        _card("net").replace("nets:", "nobody_has.it:"),
        says=(
            "architecture: nobody_has/it.py is not in the folder, and nobody_has is not installed; put "
            "nobody_has/it.py there, with net(), or install it"
        ),
    ),
    "no-factory": Case(
        "a function that is not there",
        _card("make_model"),
        says="…name one that returns a torch.nn.Module",
    ),
    "no-model": Case(
        "a function that returns a state_dict",
        _card("state_dict"),
        says="architecture: state_dict() of nets.py returned OrderedDict; it must return a torch.nn.Module",
    ),
    "made": Case(
        "a model in place of a function",
        _card("made_already"),
        says=(
            "architecture: made_already of nets.py is a Sequential that is made already, and each load makes its "
            "own; name its class, or a function that makes one: def make(): return Sequential(…)"
        ),
    ),
    "text": Case(
        "a model of text",
        _card("text"),
        says=(
            "…this card serves pictures: forward gets (N, 3, H, W) float32 and must give one row for each; "
            'its layer 0 (Embedding) takes token ids; set task = "tensor" and describe its '
            "inputs under [inputs.NAME]"
        ),
    ),
    "sound": Case(
        "a model of sound",
        _card("sound"),
        says=(
            "…this card serves pictures: forward gets (N, 3, H, W) float32 and must give one row for each; "
            'its layer 0 (Conv1d) takes signals, (N, 1, L); set task = "tensor" and describe its '
            "inputs under [inputs.NAME]"
        ),
    ),
    "table": Case(
        "a model of tables",
        _card("table"),
        says=(
            "…this card serves pictures: forward gets (N, 3, H, W) float32 and must give one row for each; "
            'its layer 0 (Linear) takes rows of 10 numbers; set task = "tensor" and describe its '
            "inputs under [inputs.NAME]"
        ),
    ),
    "grey": Case(
        "a model of grey pictures",
        _card("grey"),
        says=(
            "…this card serves pictures: forward gets (N, 3, H, W) float32 and must give one row for each; "
            "its layer 0 (Conv2d) takes grey pictures; write mean = [127.5] and std = [127.5] under "
            "[input], or its own numbers, and pictures become grey"
        ),
    ),
    "grey-declared": Case(
        "the same with `mean` and `std` of one number",
        _card(
            "trained",
            "architecture_arguments = { channels = 1 }",
            "[input]\nresize = 8\ncrop = 8\nmean = [127.5]\nstd = [127.5]",
        ),
        right=lambda: nn.Sequential(nets.trained(channels=1), nn.Softmax(1)),
    ),
    "size": Case(
        "a model of another size of pictures",
        _card("of_28_pixels"),
        says=(
            "…this card serves pictures: forward gets (N, 3, H, W) float32 and must give one row for each; "
            "its layer 2 (Linear) takes 2704 numbers and received 144; under [input] set resize and crop to "
            "the size that it was trained on"
        ),
    ),
}

PICTURES = {
    "scale": Case(
        "`mean` and `std` of pixels from 0 to 1",
        _card("trained", INPUT, "mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]"),
        says=(
            "input: mean and std are on a scale of 0 to 1, and must be of pixels from 0 to 255; write mean = "
            "[123.675, 116.28, 103.53] and std = [58.395, 57.12, 57.375]"
        ),
    ),
    "raw": Case(
        "`mean` 0 and `std` 1",
        _card("trained", INPUT, "mean = [0, 0, 0]\nstd = [1, 1, 1]"),
        level="warning",
        right=nets.softmax,
        says=("With mean 0 and std 1 the model gets pixels from 0 to 255; if it was trained on 0 to 1, set std = 255."),
    ),
    "stretch": Case(
        "`resize` to a height and a width", _card("trained", "[input]\nresize = [8, 8]"), right=nets.softmax
    ),
    "stretch-crop": Case(
        "the same with a crop",
        _card("trained", "[input]\nresize = [8, 8]\ncrop = 8"),
        says=(
            "input: resize = [8, 8] stretches each picture to that size and crop = 8 has nothing to do; leave "
            "crop out, or give resize one number, for the shorter side"
        ),
    ),
    "crop": Case(
        "a crop that is larger than the picture",
        _card("trained", "[input]\nresize = 8\ncrop = 16"),
        says="input: crop = 16 is larger than resize = 8; the crop must fit in it",
    ),
    "two-channels": Case(
        "`mean` of two numbers",
        _card("trained", INPUT, "mean = [1, 2]"),
        says="input.mean: has length 2; give three numbers, red, green and blue, or one for a grey model",
    ),
    "number": Case(
        "`input = 3`", _card("trained", "input = 3 # [input]"), says="input: 3 is not a table; give it keys of its own"
    ),
}

CARDS = {
    "fp16": Case(
        "a dtype by another name",
        _card("trained", 'dtype = "fp16"'),
        says="dtype: 'fp16' is not one of its values; choose float32, bfloat16 or float16",
    ),
    "key": Case(
        "a key that is misspelt",
        _card("trained", 'activations = "none"'),
        says="activations: there is no such key; did you mean activation?",
    ),
    "below": Case(
        "`activation` below `[input]`",
        _card("softmax", INPUT, 'activation = "none"'),
        says="input.activation: there is no such key; activation belongs at the top of a card, above [input]",
    ),
    "above": Case(
        "`mean` above `[input]`",
        _card("trained", "mean = [1, 2, 3]"),
        says="mean: there is no such key; mean belongs under [input]",
    ),
    "toml": Case(
        "a card that is not TOML",
        _card("trained", "labels = [cat, dog]"),
        says=(
            "file: is not valid TOML: Invalid value (at line 3, column 11): labels = [cat, dog]; put text in "
            "quotes and lists in brackets; see https://toml.io"
        ),
    ),
    "weights": Case(
        "a card without weights",
        NET,
        says=(
            "weights: is missing; it must be file:NAME, package:PACKAGE/PATH, torchvision:WEIGHTS, factory or "
            "random:SEED"
        ),
    ),
    "activation": Case(
        "an activation that there is not",
        _card("trained", 'activation = "relu"'),
        says="activation: 'relu' is not one of its values; choose softmax, sigmoid or none",
    ),
}

SECTIONS = {
    "What comes out": HEADS,
    "Weights": WEIGHTS,
    "Code": CODE,
    "What goes in": PICTURES,
    "Cards": CARDS,
}
CASES: dict[str, Case] = {name: case for cases in SECTIONS.values() for name, case in cases.items()}


@dataclass(frozen=True)
class Sent:
    """A request: what is sent beside the picture, and the sentence or, where it is empty, the three classes it gets."""

    sends: str
    query: str = ""
    headers: dict[str, str] | None = None
    form: dict[str, str] | None = None
    says: str = ""


REQUESTS = [
    Sent("`?top_k=3`", "?top_k=3"),
    Sent("a form with the field `top_k`", form={"top_k": "3"}),
    Sent(
        "`?model=dogs`",
        "?model=dogs",
        says="'model' is not a query parameter; a model is chosen by the path: POST /models/dogs/predict.",
    ),
    Sent("`?topk=3`", "?topk=3", says="'topk' is not a query parameter; did you mean ?top_k=5?"),
    Sent(
        "`?timeout=3`",
        "?timeout=3",
        says="'timeout' is not a query parameter; a timeout goes into the header X-Timeout-Ms, in milliseconds.",
    ),
    Sent(
        "a header `X-Model: dogs`",
        headers={"X-Model": "dogs"},
        says="X-Model is not a header of this server; a model is chosen by the path: POST /models/dogs/predict.",
    ),
    Sent("`top_k` twice", "?top_k=3&top_k=4", says="top_k appears in the query twice; give it once."),
    Sent(
        "a form with the field `model`",
        form={"model": "dogs"},
        says="'model' is not a form field; a model is chosen by the path: POST /models/dogs/predict.",
    ),
    Sent("`?top_k=many`", "?top_k=many", says="top_k is 'many'; it must be a whole number from 1 to 100."),
]


@dataclass(frozen=True)
class Start:
    """A start of the server that ends at once: with flags, over models of the table."""

    starts: str
    flags: tuple[str, ...]
    models: tuple[str, ...]
    says: str


STARTS = [
    Start(
        "`--log-level verbose`",
        ("--log-level", "verbose"),
        ("logits",),
        "--log-level: 'verbose' is not one of its values; choose debug, info, warning or error",
    ),
    Start(
        "two models and no default", (), ("logits", "labels"), "default_model: is not set; choose one of labels, logits"
    ),
    Start(
        "a default model that is not there",
        ("--default-model", "dogs"),
        ("logits",),
        "default_model: there is no model 'dogs'; there are logits",
    ),
    Start("a card that is wrong beside one that is right", (), ("logits", "fp16"), CARDS["fp16"].says),
]


def section() -> str:
    """The section of docs/models.md."""
    lines = [HEAD, ""]
    for title, cases in SECTIONS.items():
        lines += [f"### {title}", "", "| you bring | you get |", "| --- | --- |"]
        lines += [f"| {case.brings} | {_outcome(case)} |" for case in cases.values()]
        lines.append("")
    lines += ["### Requests", "", "| you send | you get |", "| --- | --- |"]
    lines += [
        f"| {sent.sends} | {f'422: {_quoted(sent.says)}' if sent.says else 'three classes'} |" for sent in REQUESTS
    ]
    lines += ["", "### Starts", "", "| you start with | the server ends with 2 and says |", "| --- | --- |"]
    lines += [f"| {start.starts} | {_quoted(start.says)} |" for start in STARTS]
    return "\n".join(lines)


HEAD = """\
## What people bring

What a new user may bring, and what it gets from `gradless check` and from the server: right answers, or a sentence that
says what would be right. `tests/e2e/test_newcomer.py` tries all of it. Each sentence is shown without its beginning,
the model's folder and file."""

_LEVELS = {
    "": "right answers",
    "warning": "answers, and a warning: ",
    "severe": "answers, and `gradless check` exits with 1: ",
}


def _outcome(case: Case) -> str:
    said = _quoted(case.says) if case.says else ""
    return _LEVELS[case.level] + said if case.is_served else said


def _quoted(sentence: str) -> str:
    escaped = sentence.replace("|", "\\|")
    return f"`{escaped}`"


if __name__ == "__main__":
    print(section())
