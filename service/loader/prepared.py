"""The preparation of a model's inputs, as its card says them."""

from __future__ import annotations

from torch import nn

from service.loader.repository import ModelFolder
from service.loader.resolved import resolved_input
from service.tasks.adapters.adapter import Preparation
from service.tasks.catalogue import INPUTS, side


def preparation_of(folder: ModelFolder, module: nn.Module) -> Preparation:
    """Return what makes the module's arguments of arrays.

    Raises:
        ConfigurationError: the card's `[input]` does not fit its weights.
    """
    card = folder.card
    about = resolved_input(folder) if card.input_kind == "picture" else card.input_specs
    found: Preparation = side(INPUTS[card.input_kind].preparation)(about, module)
    return found
