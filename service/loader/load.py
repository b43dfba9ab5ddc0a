"""From a folder to a frozen, sealed module: the loader's one way through."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.errors import ConfigurationError, blamed_on
from service.loader.card import CARD_FILE, InputSpec
from service.loader.freeze import freeze, memory_bytes, seal, version
from service.loader.repository import ModelFolder
from service.loader.weights import build, resolved_input, resolved_labels


@dataclass(frozen=True)
class LoadedModel:
    """A frozen module in float32 on the CPU, and what is known of it.

    Attributes:
        seal: SHA-256 over parameters and buffers, hex.
        version: 12 hex digits that change with weights, card, labels or architecture.
        memory: bytes of `parameters` and `buffers`.
    """

    name: str
    module: nn.Module
    input: InputSpec
    classes: int
    labels: list[str]
    seal: str
    version: str
    memory: dict[str, int]


def load(folder: ModelFolder) -> LoadedModel:
    """Build, freeze, seal. Called outside inference mode, so that the weights are normal tensors.

    Raises:
        ConfigurationError: weights, labels or the shape of the output do not fit.
    """
    module = build(folder).float()
    freeze(module)
    spec = resolved_input(folder)
    classes = _count_classes(folder, module, spec)
    labels = resolved_labels(folder, classes)
    sealed = seal(module)
    named = version(sealed, folder.card, labels, _architecture_source(folder))
    return LoadedModel(folder.name, module, spec, classes, labels, sealed, named, memory_bytes(module))


def _count_classes(folder: ModelFolder, module: nn.Module, spec: InputSpec) -> int:
    """The width of the output for one example."""
    file, doing = folder.path / CARD_FILE, f"forward of (1, 3, {spec.crop}, {spec.crop})"
    with blamed_on(file, "architecture", doing, "it must give (1, classes)"), torch.inference_mode():
        output = module(torch.zeros(1, 3, spec.crop, spec.crop))
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != 1 or not output.shape[1]:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigurationError.at(file, "architecture", f"{doing} gives {got}", "it must give (1, classes)")
    return output.shape[1]


def _architecture_source(folder: ModelFolder) -> bytes:
    module_name, _ = folder.card.part("architecture")
    source = folder.path / f"{module_name}.py"
    return source.read_bytes() if module_name != "torchvision" else b""
