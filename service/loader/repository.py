"""The model repository: one folder a model. Finds them, and the files that their cards name, without torch."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from service.errors import ConfigurationError
from service.loader.card import CARD_FILE, Card, is_required, read_card
from service.loader.first_model import first_model
from service.loader.labels import read_labels
from service.loader.module_names import why_not_found

_READABLE = "make it readable for the user that the server runs as"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class ModelFolder:
    """A model that can be loaded: its name (the folder's), where it is, and its card."""

    name: str
    path: Path
    card: Card


@dataclass(frozen=True)
class Faulty:
    """A model whose card, or a file that it names, is wrong: its faults, and whether the server must have it."""

    problems: list[str]
    required: bool


@dataclass(frozen=True)
class Catalogue:
    """The models that are served.

    Attributes:
        folders: every model by name.
        default_model: the one that /predict goes to.
        broken: by name, why a model cannot be loaded; only those that are not required.
    """

    folders: dict[str, ModelFolder]
    default_model: str
    broken: dict[str, str] = field(default_factory=dict)


def read_catalogue(root: Path, wanted_default: str | None, standing_default: str | None = None) -> Catalogue:
    """Read the folders as they are now.

    Args:
        standing_default: the default model so far, which it stays unless another one is wanted.

    Raises:
        ConfigurationError: a required model cannot be served, or none can; all faults of all cards at once.
    """
    folders, faulty = survey(root)
    if not folders or any(fault.required for fault in faulty.values()):
        raise ConfigurationError(_problems(faulty))
    broken = {name: "; ".join(fault.problems) for name, fault in faulty.items()}
    default = choose_default([*folders, *broken], wanted_default, standing_default)
    if default in broken:
        broken[default] += "; it is the default model, so /predict answers nothing until it is fixed"
    return Catalogue(folders, default, broken)


def find_models(root: Path) -> dict[str, ModelFolder]:
    """Return every model of the repository by name, in order of names.

    Raises:
        ConfigurationError: no folder, no model, or cards that cannot be served; all faults of all cards at once.
    """
    folders, faulty = survey(root)
    if faulty:
        raise ConfigurationError(_problems(faulty))
    return folders


def _problems(faulty: Mapping[str, Faulty]) -> list[str]:
    return [problem for fault in faulty.values() for problem in fault.problems]


def survey(root: Path) -> tuple[dict[str, ModelFolder], dict[str, Faulty]]:
    """Models that can be loaded and models that cannot, each by name in order of names.

    Raises:
        ConfigurationError: no folder, or no model in it.
    """
    found: dict[str, ModelFolder] = {}
    faulty: dict[str, Faulty] = {}
    for folder in _folders(root):
        try:
            if not _has_card(folder):
                continue
            card = read_card(folder)
            problems, required = _faults(folder, card), card.required
        except ConfigurationError as error:
            problems, required = error.problems, is_required(folder)
        except OSError as error:  # a folder in the model's, to which it has no access
            problems = [f"{error.filename}: file: cannot be read: {error.strerror}; {_READABLE}"]
            required = card.required
        if problems:
            faulty[folder.name] = Faulty(problems, required)
        else:
            found[folder.name] = ModelFolder(folder.name, folder.resolve(), card)
    if not found and not faulty:
        raise ConfigurationError.at(root, "models", "holds no model", first_model(root))
    return found, faulty


def _folders(root: Path) -> list[Path]:
    """Folders that may be models, sorted; not hidden ones, such as `.ipynb_checkpoints` and a ConfigMap's `..data`.

    Raises:
        ConfigurationError: the root is not a folder, or cannot be read.
    """
    try:
        inside = sorted(root.iterdir())
        return [each for each in inside if not each.name.startswith(".") and each.is_dir()]
    except (FileNotFoundError, NotADirectoryError) as error:
        fix = "name the folder of your models with --models"
        if isinstance(error, FileNotFoundError):
            fix += f", or {first_model(root)}"
        raise ConfigurationError.at(root, "models", "is not a folder", fix) from None
    except OSError as error:
        raise ConfigurationError.at(root, "models", f"cannot be read: {error.strerror}", _READABLE) from error


def _has_card(folder: Path) -> bool:
    """Say whether there is a card; a link to one that is not there counts.

    Raises:
        ConfigurationError: the folder, which could be a model's by its name (`lost+found` could not), cannot be read.
    """
    try:
        return (folder / CARD_FILE).is_symlink() or (folder / CARD_FILE).exists()
    except OSError as error:
        if not _NAME.fullmatch(folder.name) or folder.name == "__pycache__":
            return False
        raise ConfigurationError.at(folder, "folder", f"cannot be read: {error.strerror}", _READABLE) from error


def choose_default(models: Collection[str], wanted: str | None, standing: str | None = None) -> str:
    """Return the model that /predict goes to: the one wanted, else the default so far, else the only one.

    Raises:
        ConfigurationError: there is no such model, or none of several is wanted or is the default so far.
    """
    if wanted is None and standing in models:
        wanted = standing
    names = ", ".join(sorted(models))
    if wanted is not None and wanted not in models:
        raise ConfigurationError.at("settings", "default_model", f"there is no model {wanted!r}", f"there are {names}")
    if wanted is None and len(models) > 1:
        raise ConfigurationError.at("settings", "default_model", "is not set", f"choose one of {names}")
    return wanted or next(iter(models))


Folder = TypeVar("Folder")


def pick(folders: Mapping[str, Folder], names: Sequence[str], command: str) -> dict[str, Folder]:
    """Return the folders that a command names.

    Raises:
        ConfigurationError: there is no such model.
    """
    if missing := [name for name in names if name not in folders]:
        there = ", ".join(sorted(folders))
        raise ConfigurationError([f"{command}: there is no model {missing[0]!r}; there are {there}"])
    return {name: folders[name] for name in names}


def package_file(location: str) -> Path | None:
    """Return the file `PACKAGE/PATH` inside an installed package, without importing it; None if there is none."""
    package, _, inside = location.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / inside
        if path.is_file():
            return path
    return None


def _faults(folder: Path, card: Card) -> list[str]:
    """Return the faults of a card: what it names and is missing, or cannot be."""
    file = folder / CARD_FILE
    faults = []
    if not _NAME.fullmatch(folder.name):
        faults.append(f"{file}: folder: {folder.name!r} is not a valid model name; use letters, digits and . _ -")
    kind, rest = card.part("weights")
    if kind == "file":
        faults += _file_faults(file, folder / rest)
    elif kind == "package" and package_file(rest) is None:
        package = rest.partition("/")[0]
        faults.append(f"{file}: weights: {rest} is not there; install {package}, or correct the path in it")
    elif kind == "random" and not (rest.isdecimal() and len(rest) < 20 and int(rest) < 1 << 63):
        faults.append(f"{file}: weights: the seed {rest[:40]!r} is not a number below 2**63; say random:1")
    if kind not in ("file", "package"):
        faults += [
            f'{file}: {key}: is for a file of weights, and weights = "{card.weights}" names none; leave it out'
            for key in ("checkpoint_key", "strip_prefix")
            if getattr(card, key) is not None
        ]
    module, factory = card.part("architecture")
    if module != "torchvision" and (reason := why_not_found(module, factory, folder)):
        faults.append(f"{file}: architecture: {reason}")
    if isinstance(card.labels, str):
        faults += _label_faults(file, folder, card.labels)
    return faults


def _file_faults(file: Path, weights: Path) -> list[str]:
    if weights.is_dir():
        return [f"{file}: weights: {weights.name} is a folder; name the file of weights in it"]
    if not weights.is_file():
        return [f"{file}: weights: {weights.name} is not in the folder; put it there or correct the name"]
    return []


def _label_faults(file: Path, folder: Path, labels: str) -> list[str]:
    kind, _, rest = labels.partition(":")
    if labels == "torchvision:imagenet":
        return []
    if kind == "file" and (folder / rest).is_file():
        try:
            read_labels(folder / rest)
        except ConfigurationError as error:
            return error.problems
        return []
    if kind == "file":
        return [f"{file}: labels: {rest} is not in the folder; it must hold one label a line"]
    return [f"{file}: labels: {labels!r} is not valid; use torchvision:imagenet, file:NAME, or a list"]
