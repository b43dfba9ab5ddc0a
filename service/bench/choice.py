"""Which models are measured, and each in a folder of its own, so that a server has that one alone."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.loader.card import CARD_FILE, read_card
from service.loader.repository import choose_default, find_models, pick
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
    return pick(folders, names or [choose_default(served, settings.default_model), "resnet18", "trivial"], "bench")


@contextlib.contextmanager
def folder_of_one(name: str, folder: Path, dtype: str = "") -> Iterator[Path]:
    """A models folder with that model alone, of a card that says no `dtype` in that one."""
    with tempfile.TemporaryDirectory(prefix="gradless-bench-") as models:
        there = Path(models, name)
        if not dtype:
            there.symlink_to(folder.resolve())
        else:
            there.mkdir()
            for file in folder.resolve().iterdir():
                if file.name != CARD_FILE:
                    (there / file.name).symlink_to(file)
            (there / CARD_FILE).write_text(f'dtype = "{dtype}"\n{(folder / CARD_FILE).read_text()}')
        yield Path(models)


def can_be_told_bfloat16(folder: Path) -> bool:
    """Whether a model computes in float32, and its card leaves room to say otherwise."""
    return "dtype" not in read_card(folder).model_fields_set


def crop_of(models: Path, name: str) -> int:
    """What a model sees of a picture, in pixels a side."""
    return resolved_input(find_models(models)[name]).crop
