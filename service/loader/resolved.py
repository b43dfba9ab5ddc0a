"""The input and the labels of a model: the card's, completed by what its weights know."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service.errors import ConfigurationError, blamed_on
from service.host.vision import torchvision
from service.loader.card import CARD_FILE, Card, words_of
from service.loader.labels import read_labels
from service.loader.repository import ModelFolder
from service.tasks.inputs.spec import InputSpec


def torchvision_weights(card: Card, path: Path) -> Any:
    _, name = card.part("weights")
    fix = "write it as torchvision does, such as ResNet18_Weights.DEFAULT"
    with blamed_on(path / CARD_FILE, "weights", f"looking up {name}", fix):
        return torchvision.models.get_weight(name)


def resolved_input(folder: ModelFolder) -> InputSpec:
    """Return the card's input; what it leaves out comes from `torchvision:` weights.

    Raises:
        ConfigurationError: there are no such weights, or the card's keys do not fit theirs.
    """
    card = folder.card
    if card.part("weights")[0] != "torchvision":
        return card.input
    weights = torchvision_weights(card, folder.path)
    with blamed_on(folder.path / CARD_FILE, "weights", "reading their transforms", "use weights of a classification"):
        preset = weights.transforms()
        known = {
            "resize": preset.resize_size[0],
            "crop": preset.crop_size[0],
            "interpolation": preset.interpolation.value,
            "mean": tuple(255 * value for value in preset.mean),
            "std": tuple(255 * value for value in preset.std),
        }
    try:
        return InputSpec(**known | card.input.model_dump(include=card.input.model_fields_set))
    except ValidationError as error:
        raise ConfigurationError(words_of(folder.path / CARD_FILE, error, "input")) from error


def resolved_labels(folder: ModelFolder, classes: int) -> list[str]:
    """Return a label for each class: the card's, the weights' own, or the class id as text.

    Raises:
        ConfigurationError: there are more or fewer labels than classes.
    """
    with blamed_on(folder.path / CARD_FILE, "labels", "reading them", "give a text file in UTF-8, one label a line"):
        labels = _labels(folder)
    if labels is None:
        return [str(number) for number in range(classes)]
    if len(labels) != classes:
        words = f"{len(labels)} labels for {classes} classes"
        raise ConfigurationError.at(folder.path / CARD_FILE, "labels", words, f"give {classes}, or leave labels out")
    return labels


def resolved_values(folder: ModelFolder, shape: tuple[int, ...]) -> list[str]:
    """Return a name for each number of a regression: the card's, or `value`, and with more than one `value_0` …

    Raises:
        ConfigurationError: there are more or fewer names than numbers.
    """
    count = math.prod(shape)
    values = folder.card.values
    if values is None:
        return ["value"] if count == 1 else [f"value_{number}" for number in range(count)]
    if len(values) != count or len({*values}) != count:
        words = f"{len({*values})} names for {count} number{'s' * (count != 1)}"
        raise ConfigurationError.at(folder.path / CARD_FILE, "values", words, f"give {count}, or leave values out")
    return values


def _labels(folder: ModelFolder) -> list[str] | None:
    labels = folder.card.labels
    if isinstance(labels, list):
        return labels
    if labels == "torchvision:imagenet":
        return list(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"])
    if labels is not None:
        return read_labels(folder.path / labels.partition(":")[2])
    if folder.card.part("weights")[0] == "torchvision":
        return list(torchvision_weights(folder.card, folder.path).meta["categories"])
    return None
