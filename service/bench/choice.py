"""Which models are measured, and each in a folder of its own, so that a server has that one alone."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from service.errors import ConfigurationError
from service.loader.repository import choose_default, find_models
from service.loader.weights import resolved_input
from service.settings import Settings

OWN = Path(__file__).parent / "models"


def bench_models(settings: Settings, names: list[str]) -> dict[str, Path]:
    """The folders of these models, the settings' and the bench's own; without names the default one and those.

    Raises:
        ConfigurationError: there is no such model.
    """
    served = find_models(settings.models)
    folders = {name: folder.path for name, folder in (find_models(OWN) | served).items()}
    return pick(folders, names or [choose_default(served, settings.default_model), "resnet18", "trivial"])


Folder = TypeVar("Folder")


def pick(folders: dict[str, Folder], names: list[str]) -> dict[str, Folder]:
    """Those of the folders that are named.

    Raises:
        ConfigurationError: there is no such model.
    """
    if missing := [name for name in names if name not in folders]:
        raise ConfigurationError([f"bench: there is no model {missing[0]!r}; there are {', '.join(sorted(folders))}"])
    return {name: folders[name] for name in names}


@contextlib.contextmanager
def folder_of_one(name: str, folder: Path) -> Iterator[Path]:
    """A models folder with that model alone."""
    with tempfile.TemporaryDirectory(prefix="gradless-bench-") as models:
        Path(models, name).symlink_to(folder.resolve())
        yield Path(models)


def crop_of(models: Path, name: str) -> int:
    """What a model sees of a picture, in pixels a side."""
    return resolved_input(find_models(models)[name]).crop
