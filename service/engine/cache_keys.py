"""Keys in the cache of what is made for a model on this machine.

Each takes `threads`: those that the model may take.
"""

from __future__ import annotations

import torch

from service.engine.model import ServedModel
from service.loader.artefact import artefact_key
from service.loader.load import LoadedModel


def tuning_key(loaded: LoadedModel, device: torch.device, threads: int) -> str:
    """Key of what `gradless bench --tune` found for a model, whose cap is not known before."""
    return artefact_key(loaded.version, "", loaded.adapter.shapes, device, threads)


def package_key(model: ServedModel, threads: int) -> str:
    """Key of the verdict on a model's packages, and of the one that won."""
    shape = (model.cap, *model.loaded.adapter.shapes)
    return artefact_key(model.loaded.version, model.card.dtype, shape, model.device, threads)


def proof_key(model: ServedModel, threads: int) -> str:
    """Key of the proof of whatever answers now: the module, or one package."""
    key = package_key(model, threads)
    return f"{key}-{model.package.sha256[:12]}" if model.package else key
