"""Load a folder as a frozen, sealed module: the loader's one way through."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from service.errors import ConfigurationError
from service.loader.architecture import Code, code_of, forgotten_on_failure
from service.loader.card import CARD_FILE
from service.loader.first_forward import first_forward, said_of_images
from service.loader.freeze import freeze, memory_bytes, seal, version
from service.loader.last_operator import End, end_of
from service.loader.opened import watch_opened
from service.loader.outputs import Scores, key_of_scores, said_of, scores_of
from service.loader.probes import probes
from service.loader.report import Finding
from service.loader.repository import ModelFolder
from service.loader.resolved import resolved_input, resolved_labels
from service.loader.weights import assemble
from service.tasks.adapters.heads import probabilities_of
from service.tasks.adapters.picture import mean_and_std, normalise
from service.tasks.inputs.spec import InputSpec

#: Probes on which a model of another dtype is compared with itself in float32.
PRECISION_PROBES = 8


@dataclass(frozen=True)
class LoadedModel:
    """A frozen module on the CPU, in the dtype of its card, and what is known of it.

    Attributes:
        seal: SHA-256 over parameters and buffers, hex.
        version: 12 hex digits that change with weights, card, labels or architecture.
        memory: bytes of `parameters` and `buffers`.
        in_float32: of a model of another dtype, `(N, classes)` probabilities of the first probes in float32.
        findings: what is odd about its card and weights.
        end: the kind of operator that its outputs come from.
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
    findings: tuple[Finding, ...] = ()
    end: End = "other"


def load(folder: ModelFolder) -> LoadedModel:
    """Build, freeze, seal. Called outside inference mode, so that the weights are normal tensors.

    Raises:
        ConfigurationError: weights, labels or the shape of the output do not fit.
    """
    with forgotten_on_failure(code_of(folder)) as code, watch_opened(folder.path) as opened:
        return _load(folder, code, opened)


def _load(folder: ModelFolder, code: Code | None, opened: Collection[Path]) -> LoadedModel:
    built = assemble(folder, code)
    module = built.module.float()
    freeze(module)
    spec = resolved_input(folder)
    in_float32 = None
    if folder.card.dtype != "float32":
        in_float32 = _probabilities(module, spec, folder.card.activation)
        module.to(getattr(torch, folder.card.dtype))
    module, classes, end = _count_classes(folder, module, spec)
    _check_several(folder, classes)
    labels = resolved_labels(folder, classes)
    sealed = seal(module)
    source, *beside = code.name_version(opened) if code else [b""]
    named = version(sealed, folder.card, labels, source, *beside, *built.beyond)
    findings = (*built.findings, *_raw_pixels(spec))
    memory = memory_bytes(module)
    return LoadedModel(folder.name, module, spec, classes, labels, sealed, named, memory, in_float32, findings, end)


def _raw_pixels(spec: InputSpec) -> Iterator[Finding]:
    if not any(spec.mean) and set(spec.std) == {1}:
        words = "With mean 0 and std 1 the model gets pixels from 0 to 255; if it was trained on 0 to 1, set std = 255."
        yield Finding("raw-pixels", "warning", words)


def _probabilities(module: nn.Module, spec: InputSpec, activation: str) -> Tensor | None:
    """Return probabilities of the first probes, one by one; None if the output is wrong, which is reported later."""
    with contextlib.suppress(Exception), torch.inference_mode():
        images = normalise(probes(PRECISION_PROBES, spec.shape), *mean_and_std(spec))
        return probabilities_of(torch.cat([scores_of(module(image.unsqueeze(0))) for image in images]), activation)
    return None


def _check_several(folder: ModelFolder, classes: int) -> None:
    """Refuse a softmax over one class, which is 1 whatever the model says.

    Raises:
        ConfigurationError: there is one, and the card names no other activation.
    """
    if classes == 1 and folder.card.activation == "softmax":
        words = "the model gives one number for a picture, and the probability of a single class is always 1"
        yes_or_no = 'for yes or no from one logit set activation = "sigmoid"'
        fix = f"{yes_or_no}; regression is a task that this version does not have"
        raise ConfigurationError.at(folder.path / CARD_FILE, "task", words, fix)


def _count_classes(folder: ModelFolder, module: nn.Module, spec: InputSpec) -> tuple[nn.Module, int, End]:
    """Return the module with its scores for an output, their width for one example, and what they come from."""
    file = folder.path / CARD_FILE
    images = torch.zeros(1, *spec.shape, dtype=getattr(torch, folder.card.dtype))
    with torch.inference_mode():
        try:
            output, end = end_of(lambda: module(images), scores_of)
        except (Exception, SystemExit):  # the model's fault, which is explained, or one of looking at its operators
            output, end = first_forward(module, images, file), "other"
    scores = scores_of(output)
    if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != 1 or not scores.shape[1]:
        words = f"{said_of_images(images)} gives {said_of(scores)}"
        raise ConfigurationError.at(file, "architecture", words, "it must give (1, classes)")
    if scores is output:
        return module, scores.shape[1], end
    return Scores(module, key_of_scores(output) or ""), scores.shape[1], end
