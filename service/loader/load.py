"""Load a folder as a frozen, sealed model: the loader's one way through."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from service.errors import ConfigurationError
from service.loader.architecture import Code, code_of, forgotten_on_failure
from service.loader.card import CARD_FILE, Card
from service.loader.freeze import freeze, memory_bytes, seal, version
from service.loader.last_operator import End
from service.loader.opened import watch_opened
from service.loader.outputs import find_outputs
from service.loader.prepared import preparation_of
from service.loader.report import Finding
from service.loader.repository import ModelFolder
from service.loader.resolved import resolved_labels, resolved_values
from service.loader.weights import assemble
from service.signature import Signature, digest
from service.tasks.adapters.adapter import Adapter, Preparation
from service.tasks.adapters.flattening import scores_of
from service.tasks.adapters.heads import probabilities_of
from service.tasks.catalogue import TASKS, side
from service.tasks.inputs.spec import InputSpec

#: Made-up examples on which a model of another dtype is compared with itself in float32.
PRECISION_EXAMPLES = 8


@dataclass(frozen=True)
class LoadedModel:
    """A frozen model on the CPU, in the dtype of its card, and what is known of it.

    Attributes:
        adapter: its module, with what stands before and behind it.
        seal: SHA-256 over parameters and buffers, hex.
        version: 12 hex digits that change with weights, card, labels or architecture.
        answer: what the task's output writes besides the results.
        memory: bytes of `parameters` and `buffers`.
        in_float32: of a classifier of another dtype, `(N, classes)` probabilities of the first examples in float32.
        findings: what is odd about its card and weights.
        end: the kind of operator that its outputs come from.
    """

    name: str
    adapter: Adapter
    card: Card
    seal: str
    version: str
    memory: dict[str, int]
    answer: dict[str, Any] = field(default_factory=dict)
    in_float32: Tensor | None = None
    findings: tuple[Finding, ...] = ()
    end: End = "other"

    @property
    def module(self) -> nn.Module:
        return self.adapter.module

    @property
    def signature(self) -> Signature:
        return self.adapter.signature

    @property
    def input(self) -> InputSpec | None:
        """Return the card's `[input]`, resolved; None where that has nothing to say."""
        spec: InputSpec | None = getattr(self.adapter.preparation, "spec", None)
        return spec

    @property
    def input_shown(self) -> dict[str, Any]:
        return self.input.model_dump() if self.input else {}

    @property
    def decoded_for(self) -> str:
        """Return a digest of all that decides how bytes become inputs."""
        return digest(self.card.input_kind, self.input_shown, self.signature.inputs)


def load(folder: ModelFolder) -> LoadedModel:
    """Build, freeze, seal. Called outside inference mode, so that the weights are normal tensors.

    Raises:
        ConfigurationError: weights, labels or the shape of the output do not fit.
    """
    with forgotten_on_failure(code_of(folder)) as code, watch_opened(folder.path) as opened:
        return _load(folder, code, opened)


def _load(folder: ModelFolder, code: Code | None, opened: Collection[Path]) -> LoadedModel:
    card = folder.card
    built = assemble(folder, code)
    module = built.module.float()
    freeze(module)
    preparation = preparation_of(folder, module)
    in_float32 = None
    if card.dtype != "float32":
        in_float32 = _probabilities(module, preparation, card)
        preparation.dtype = getattr(torch, card.dtype)
        module.to(preparation.dtype)
    found = find_outputs(module, preparation, card, folder.path / CARD_FILE)
    head = side(TASKS[card.task].head)(found.raw, card.activation)
    answer = _answer(folder, found.raw[0].shape)
    adapter = Adapter(module, preparation, found.flattening, found.raw, head)
    sealed = seal(adapter.sealed)
    source, *beside = code.name_version(opened) if code else [b""]
    named = version(sealed, card, answer.get("labels", []), source, *beside, *built.beyond)
    return LoadedModel(
        folder.name,
        adapter,
        card,
        sealed,
        named,
        memory_bytes(module),
        answer,
        in_float32,
        (*built.findings, *_raw_pixels(preparation)),
        found.end,
    )


def _answer(folder: ModelFolder, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return what answers hold beside the results of an output of that shape.

    Raises:
        ConfigurationError: the card names more or fewer labels or values than there are.
    """
    if folder.card.task == "classification":
        _check_several(folder, shape[0])
        return {"labels": resolved_labels(folder, shape[0])}
    return {"values": resolved_values(folder, shape)} if folder.card.task == "regression" else {}


def _raw_pixels(preparation: Preparation) -> Iterator[Finding]:
    spec: InputSpec | None = getattr(preparation, "spec", None)
    if spec and not any(spec.mean) and set(spec.std) == {1}:
        words = "With mean 0 and std 1 the model gets pixels from 0 to 255; if it was trained on 0 to 1, set std = 255."
        yield Finding("raw-pixels", "warning", words)


def _probabilities(module: nn.Module, preparation: Preparation, card: Card) -> Tensor | None:
    """Return a classifier's probabilities of the first made-up examples, one by one.

    None if it is not one, or the output is wrong, which is reported later.
    """
    if card.task != "classification":
        return None
    with contextlib.suppress(Exception), torch.inference_mode():
        rows = []
        for place in range(PRECISION_EXAMPLES):
            arrays = [array[place : place + 1] for array in preparation.examples(PRECISION_EXAMPLES)]
            positional, by_name = preparation.forward(*arrays)
            rows.append(scores_of(module(*positional, **by_name)))
        return probabilities_of(torch.cat(rows), card.activation)
    return None


def _check_several(folder: ModelFolder, classes: int) -> None:
    """Refuse a softmax over one class, which is 1 whatever the model says.

    Raises:
        ConfigurationError: there is one, and the card names no other activation.
    """
    if classes == 1 and folder.card.activation == "softmax":
        words = "the model gives one number for each input, and the probability of a single class is always 1"
        fix = 'for yes or no from one logit set activation = "sigmoid"; for a number set task = "regression"'
        raise ConfigurationError.at(folder.path / CARD_FILE, "task", words, fix)
