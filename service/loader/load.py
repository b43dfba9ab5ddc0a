"""From a folder to a frozen, sealed module: the loader's one way through."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.errors import ConfigurationError, blamed_on
from service.loader.card import CARD_FILE, InputSpec
from service.loader.freeze import freeze, memory_bytes, seal, version
from service.loader.probes import probes
from service.loader.repository import ModelFolder
from service.loader.weights import build, resolved_input, resolved_labels
from service.tasks.classification import normalise

#: On so many probes a model of another dtype is held against itself in float32.
PRECISION_PROBES = 8


@dataclass(frozen=True)
class LoadedModel:
    """A frozen module on the CPU, in the dtype of its card, and what is known of it.

    Attributes:
        seal: SHA-256 over parameters and buffers, hex.
        version: 12 hex digits that change with weights, card, labels or architecture.
        memory: bytes of `parameters` and `buffers`.
        in_float32: of a model of another dtype, `(N, classes)` probabilities of the first probes in float32.
    """

    name: str
    module: nn.Module
    input: InputSpec
    classes: int
    labels: list[str]
    seal: str
    version: str
    memory: dict[str, int]
    in_float32: Tensor | None = None


def load(folder: ModelFolder) -> LoadedModel:
    """Build, freeze, seal. Called outside inference mode, so that the weights are normal tensors.

    Raises:
        ConfigurationError: weights, labels or the shape of the output do not fit.
    """
    module = build(folder).float()
    freeze(module)
    spec = resolved_input(folder)
    in_float32 = None
    if folder.card.dtype != "float32":
        in_float32 = _probabilities(module, spec)
        module.to(getattr(torch, folder.card.dtype))
    classes = _count_classes(folder, module, spec)
    labels = resolved_labels(folder, classes)
    sealed = seal(module)
    named = version(sealed, folder.card, labels, _architecture_source(folder))
    return LoadedModel(folder.name, module, spec, classes, labels, sealed, named, memory_bytes(module), in_float32)


def _probabilities(module: nn.Module, spec: InputSpec) -> Tensor | None:
    """Of the first probes, one by one; None where the module does not give what it should, which is told elsewhere."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    with contextlib.suppress(Exception), torch.inference_mode():
        images = normalise(probes(PRECISION_PROBES, spec.crop), mean, std, torch.float32, torch.contiguous_format)
        return torch.cat([module(image.unsqueeze(0)) for image in images]).softmax(dim=1)
    return None


def _count_classes(folder: ModelFolder, module: nn.Module, spec: InputSpec) -> int:
    """The width of the output for one example."""
    file, doing = folder.path / CARD_FILE, f"forward of (1, 3, {spec.crop}, {spec.crop})"
    with blamed_on(file, "architecture", doing, "it must give (1, classes)"), torch.inference_mode():
        output = module(torch.zeros(1, 3, spec.crop, spec.crop, dtype=getattr(torch, folder.card.dtype)))
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != 1 or not output.shape[1]:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigurationError.at(file, "architecture", f"{doing} gives {got}", "it must give (1, classes)")
    return output.shape[1]


def _architecture_source(folder: ModelFolder) -> bytes:
    module_name, _ = folder.card.part("architecture")
    source = folder.path / f"{module_name}.py"
    return source.read_bytes() if module_name != "torchvision" else b""
