"""The models to measure, each in a folder of its own, so that a server has that one alone."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from service.bench.bodies import Seen
from service.host.text import read_text
from service.loader.card import CARD_FILE, read_card
from service.loader.repository import choose_default, find_models, pick
from service.loader.resolved import resolved_input
from service.settings import Settings

OWN = Path(__file__).parent / "models"
#: The bench's own models: pictures, pictures that cost nothing, and arrays that cost nothing.
OWN_MODELS = ("resnet18", "trivial", "linear")


def bench_models(settings: Settings, names: list[str], own: Sequence[str] = OWN_MODELS) -> dict[str, Path]:
    """Return the folders of these models, of the settings or the bench's own; without names, the default and `own`.

    Raises:
        ConfigurationError: there is no such model.
    """
    served = find_models(settings.models)
    folders = {name: folder.path for name, folder in (find_models(OWN) | served).items()}
    return pick(folders, names or [choose_default(served, settings.default_model), *own], "bench")


@contextlib.contextmanager
def folder_of_one(name: str, folder: Path, dtype: str = "") -> Iterator[Path]:
    """Make a models folder with that model alone, in `dtype` if one is given."""
    with tempfile.TemporaryDirectory(prefix="gradless-bench-") as models:
        there = Path(models, name)
        if not dtype:
            there.symlink_to(folder.resolve())
        else:
            there.mkdir()
            for file in folder.resolve().iterdir():
                if file.name != CARD_FILE:
                    (there / file.name).symlink_to(file)
            (there / CARD_FILE).write_text(
                f'dtype = "{dtype}"\n{read_text(folder / CARD_FILE, "file")}', encoding="utf-8"
            )
        yield Path(models)


def can_be_told_bfloat16(folder: Path) -> bool:
    """Return whether the card leaves the dtype open, so that the model computes in float32."""
    return "dtype" not in read_card(folder).model_fields_set


def seen_by(models: Path, name: str) -> Seen:
    """Return what a model sees, from its card."""
    folder = find_models(models)[name]
    if folder.card.input_kind == "picture":
        return Seen(resolved_input(folder).side)
    return Seen(inputs=tuple(folder.card.input_specs))
