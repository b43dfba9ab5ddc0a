"""From a card to a module that holds its weights: every key there, none left over, each of its shape."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from service.errors import ConfigurationError, blamed_on
from service.loader.card import CARD_FILE, Card, InputSpec
from service.loader.repository import ModelFolder, package_file
from service.vision import torchvision

_MOST_LISTED = 20


def build(folder: ModelFolder) -> nn.Module:
    """The architecture with its weights, on the CPU, not yet frozen.

    Raises:
        ConfigurationError: the architecture cannot be made, or the weights do not fit it.
    """
    kind, rest = folder.card.part("weights")
    if kind == "random":
        return _random(folder, int(rest))
    module = _architecture(folder)
    fill(module, _state_dict(folder, kind, rest), folder.path / CARD_FILE)
    return module


def fill(module: nn.Module, state: Mapping[str, Tensor], card_file: Path) -> None:
    """Load a state_dict strictly.

    Raises:
        ConfigurationError: keys are missing, unexpected or of another shape; all are listed together.
    """
    wanted = module.state_dict()
    both = [key for key in wanted if key in state]
    reshaped = [
        f"{key} is {tuple(state[key].shape)}, the architecture needs {tuple(wanted[key].shape)}"
        for key in both
        if state[key].shape != wanted[key].shape
    ]
    problems = [
        *_listed(card_file, "missing in the weights", (key for key in wanted if key not in state)),
        *_listed(card_file, "unexpected in the weights", (key for key in state if key not in wanted)),
        *_listed(card_file, "of another shape", reshaped),
    ]
    if problems:
        raise ConfigurationError(problems)
    with blamed_on(card_file, "weights", "copying them", "use the weights of this architecture"):
        module.load_state_dict(state, strict=True)


def _listed(card_file: Path, what: str, keys: Iterable[str]) -> list[str]:
    found = list(keys)
    if not found:
        return []
    more = f", … and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
    return [
        f"{card_file}: weights: {what}: {', '.join(found[:_MOST_LISTED])}{more}; use the weights of this architecture"
    ]


def _architecture(folder: ModelFolder) -> nn.Module:
    module_name, factory = folder.card.part("architecture")
    file = folder.path / CARD_FILE
    if module_name == "torchvision":
        return _torchvision_model(factory, folder.card, file)
    source = folder.path / f"{module_name}.py"
    with blamed_on(file, "architecture", f"{factory}() of {source.name}", "it must return a torch.nn.Module"):
        made = getattr(_load_module(folder.name, source), factory)()
    if not isinstance(made, nn.Module):
        words = f"{factory}() of {source.name} returned {type(made).__name__}"
        raise ConfigurationError.at(file, "architecture", words, "it must return a torch.nn.Module")
    return made


def _torchvision_model(name: str, card: Card, card_file: Path) -> nn.Module:
    if name not in torchvision.models.list_models(module=torchvision.models):
        words, right = f"torchvision has no classification model {name!r}", "see torchvision.models.list_models()"
        raise ConfigurationError.at(card_file, "architecture", words, right)
    options = {}
    if name in ("googlenet", "inception_v3"):
        # Random numbers for minutes, unless told not to; and torchvision's own weights of these two were trained on
        # pixels of another scale, which the model makes of the usual one when asked.
        options = {"init_weights": False, "transform_input": card.part("weights")[0] == "torchvision"}
    with blamed_on(card_file, "architecture", f"torchvision's {name}", "choose another model"):
        built: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return built


class _FromSource(SourceFileLoader):
    """Runs the text that is there now: a `.pyc` passes for current when the text changes within a second and
    keeps its length, and then the version would name code that did not run."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _load_module(model: str, source: Path) -> Any:
    name = f"gradless_model_{model}_{source.stem}"
    spec = importlib.util.spec_from_file_location(name, source, loader=_FromSource(name, str(source)))
    if spec is None or spec.loader is None:
        raise ImportError(f"{source} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _state_dict(folder: ModelFolder, kind: str, rest: str) -> Mapping[str, Tensor]:
    file = folder.path / CARD_FILE
    if kind == "torchvision":
        weights = _torchvision_weights(folder.card, folder.path)
        with blamed_on(file, "weights", f"fetching {rest}", "download them once, or use file:"):
            state: Mapping[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        return state
    path = folder.path / rest if kind == "file" else package_file(rest)
    if path is None:
        raise ConfigurationError.at(file, "weights", f"{rest} is not there", "install its package")
    if path.suffix == ".safetensors":
        with blamed_on(path, "weights", "reading it", "save it with safetensors.torch.save_file(state_dict, …)"):
            return safetensors.torch.load_file(path)
    return _unpickle(path)


def _unpickle(path: Path) -> Mapping[str, Tensor]:
    """A state_dict of tensors and nothing else: a pickle that wants more could run code, and is refused."""
    fix = "save it with torch.save(model.state_dict(), …) or as .safetensors"
    with blamed_on(path, "weights", "it is broken or holds more than tensors: reading it", fix):
        content = torch.load(path, weights_only=True, map_location="cpu")
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        words = f"is no state_dict (names to tensors) but another {type(content).__name__}"
        raise ConfigurationError.at(path, "weights", words, fix)
    return content


def _torchvision_weights(card: Card, path: Path) -> Any:
    _, name = card.part("weights")
    fix = "write it as torchvision does, such as ResNet18_Weights.DEFAULT"
    with blamed_on(path / CARD_FILE, "weights", f"looking up {name}", fix):
        return torchvision.models.get_weight(name)


def _random(folder: ModelFolder, seed: int) -> nn.Module:
    """An untrained model, the same for a seed, whose answers differ between inputs.

    A deep random network gives nearly the same features for any input. Its last layer is therefore drawn again in
    the scale of the differences between some random inputs, so that logits have a variance of about one.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _architecture(folder).eval()
        spec = resolved_input(folder)
        images = torch.randint(0, 256, (8, 3, spec.crop, spec.crop)).float()
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
        last = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        if last:
            with blamed_on(folder.path / CARD_FILE, "architecture", "forward of random pictures", "mend the model"):
                _redraw(module, last[-1], (images - mean) / std)
    return module


@torch.no_grad()
def _redraw(module: nn.Module, last: nn.Linear | nn.Conv2d, images: Tensor) -> None:
    seen: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    module(images)
    hook.remove()
    if not seen:  # a layer of an auxiliary head, which eval leaves out
        return
    features = seen[-1].flatten(2).mean(2) if isinstance(last, nn.Conv2d) else seen[-1].flatten(0, -2)
    spread = features.std(0).square().mean().sqrt().clamp(min=1e-6)
    weight = torch.randn_like(last.weight) / (spread * last.weight[0].numel() ** 0.5)
    last.weight.copy_(weight)
    if last.bias is not None:
        centre = features.mean(0)
        last.bias.copy_(-(weight.flatten(2).sum(2) if weight.dim() == 4 else weight) @ centre)


def resolved_input(folder: ModelFolder) -> InputSpec:
    """The card's input, with what it leaves out taken from `torchvision:` weights."""
    card = folder.card
    if card.part("weights")[0] != "torchvision":
        return card.input
    weights = _torchvision_weights(card, folder.path)
    with blamed_on(folder.path / CARD_FILE, "weights", "reading their transforms", "use weights of a classification"):
        preset = weights.transforms()
        known = {
            "resize": preset.resize_size[0],
            "crop": preset.crop_size[0],
            "interpolation": preset.interpolation.value,
            "mean": tuple(255 * value for value in preset.mean),
            "std": tuple(255 * value for value in preset.std),
        }
        return InputSpec(**known | card.input.model_dump(include=card.input.model_fields_set))


def resolved_labels(folder: ModelFolder, classes: int) -> list[str]:
    """A label for each class: the card's, the weights' own, or the class id as text.

    Raises:
        ConfigurationError: there are more or fewer labels than classes.
    """
    card = folder.card
    with blamed_on(folder.path / CARD_FILE, "labels", "reading them", "give a text file in UTF-8, one label a line"):
        labels = _labels(folder)
    if labels is None:
        return [str(number) for number in range(classes)]
    if len(labels) != classes:
        words = f"{len(labels)} labels for {classes} classes"
        raise ConfigurationError.at(
            folder.path / CARD_FILE, "labels", words, f"give {classes}, or leave {card.labels} out"
        )
    return labels


def _labels(folder: ModelFolder) -> list[str] | None:
    labels = folder.card.labels
    if isinstance(labels, list):
        return labels
    if labels == "torchvision:imagenet":
        return list(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"])
    if labels is not None:
        return (folder.path / labels.partition(":")[2]).read_text().splitlines()
    if folder.card.part("weights")[0] == "torchvision":
        return list(_torchvision_weights(folder.card, folder.path).meta["categories"])
    return None
