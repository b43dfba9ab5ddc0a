"""The model repository: one folder a model. Finds them, and the files that their cards name, without torch."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from service.errors import ConfigurationError
from service.loader.card import CARD_FILE, Card, read_card

STATE_DICT_SUFFIXES = (".pth", ".pt", ".safetensors")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class ModelFolder:
    """A model that can be loaded: its name (the folder's), where it is, and its card."""

    name: str
    path: Path
    card: Card


@dataclass(frozen=True)
class Catalogue:
    """What is served: every model by name, and the one that /predict goes to."""

    folders: dict[str, ModelFolder]
    default_model: str


def read_catalogue(root: Path, wanted_default: str | None) -> Catalogue:
    """What the folders hold now.

    Raises:
        ConfigurationError: it cannot be served.
    """
    folders = find_models(root)
    return Catalogue(folders, choose_default(folders, wanted_default))


def find_models(root: Path) -> dict[str, ModelFolder]:
    """Every model of the repository by name, in order of names.

    Raises:
        ConfigurationError: no folder, no model, or cards that cannot be served; all faults of all cards at once.
    """
    if not root.is_dir():
        raise ConfigurationError.at(root, "models", "is no folder", "name the folder of your models with --models")
    found: dict[str, ModelFolder] = {}
    problems: list[str] = []
    for file in sorted(root.glob(f"*/{CARD_FILE}")):
        folder = file.parent
        try:
            card = read_card(folder)
        except ConfigurationError as error:
            problems += error.problems
            continue
        problems += _faults(folder, card)
        found[folder.name] = ModelFolder(folder.name, folder.resolve(), card)
    if problems:
        raise ConfigurationError(problems)
    if not found:
        raise ConfigurationError.at(root, "models", "holds no model", f"put one in: a folder with a {CARD_FILE}")
    return found


def choose_default(models: dict[str, ModelFolder], wanted: str | None) -> str:
    """The model that /predict goes to: the one wanted, else the only one.

    Raises:
        ConfigurationError: there is no such model, or several and none is wanted.
    """
    names = ", ".join(sorted(models))
    if wanted is not None and wanted not in models:
        raise ConfigurationError.at("settings", "default_model", f"there is no model {wanted!r}", f"there are {names}")
    if wanted is None and len(models) > 1:
        raise ConfigurationError.at("settings", "default_model", "is not set", f"choose one of {names}")
    return wanted or next(iter(models))


Folder = TypeVar("Folder")


def pick(folders: Mapping[str, Folder], names: Sequence[str], command: str) -> dict[str, Folder]:
    """Those of the folders that a command was given the names of.

    Raises:
        ConfigurationError: there is no such model.
    """
    if missing := [name for name in names if name not in folders]:
        there = ", ".join(sorted(folders))
        raise ConfigurationError([f"{command}: there is no model {missing[0]!r}; there are {there}"])
    return {name: folders[name] for name in names}


def package_file(location: str) -> Path | None:
    """The file `PACKAGE/PATH` inside an installed package, which is not imported; None where there is none."""
    package, _, inside = location.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / inside
        if path.is_file():
            return path
    return None


def _faults(folder: Path, card: Card) -> list[str]:
    """What the card names and is not there, or cannot be."""
    file = folder / CARD_FILE
    faults = []
    if not _NAME.fullmatch(folder.name):
        faults.append(f"{file}: folder: {folder.name!r} is no name for a model; use letters, digits and . _ -")
    kind, rest = card.part("weights")
    if kind == "file":
        faults += _state_dict_faults(file, folder / rest)
    elif kind == "package" and package_file(rest) is None:
        package = rest.partition("/")[0]
        faults.append(f"{file}: weights: {rest} is not there; install {package}, or mend the path in it")
    elif kind == "random" and not (rest.isdecimal() and int(rest) < 1 << 63):
        faults.append(f"{file}: weights: the seed {rest[:40]!r} is no number below 2**63; say random:1")
    module, factory = card.part("architecture")
    if module != "torchvision" and not (folder / f"{module}.py").is_file():
        faults.append(f"{file}: architecture: {module}.py is not in the folder; it must define {factory}()")
    if isinstance(card.labels, str):
        faults += _label_faults(file, folder, card.labels)
    return faults


def _state_dict_faults(file: Path, weights: Path) -> list[str]:
    if weights.suffix not in STATE_DICT_SUFFIXES:
        return [f"{file}: weights: {weights.name} is no state_dict; it must end in {', '.join(STATE_DICT_SUFFIXES)}"]
    if not weights.is_file():
        return [f"{file}: weights: {weights.name} is not in the folder; put it there or mend the name"]
    return []


def _label_faults(file: Path, folder: Path, labels: str) -> list[str]:
    kind, _, rest = labels.partition(":")
    if labels == "torchvision:imagenet" or (kind == "file" and (folder / rest).is_file()):
        return []
    if kind == "file":
        return [f"{file}: labels: {rest} is not in the folder; it must hold one label a line"]
    return [f"{file}: labels: {labels!r} does not fit; say torchvision:imagenet, file:NAME, or a list"]
