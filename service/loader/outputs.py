"""A model's outputs: what a forward at the start returns, by the names and in the shapes that the card promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from service.errors import ConfigurationError
from service.loader.artefact import Records
from service.loader.card import CARD_FILE, Card
from service.loader.first_forward import first_forward, said_of_arguments
from service.loader.last_operator import End, end_of
from service.loader.repository import ModelFolder
from service.signature import TensorSpec, said_of_shape
from service.tasks.adapters.adapter import Preparation
from service.tasks.adapters.flattening import (
    Flattening,
    key_of_scores,
    named_outputs,
    said_of,
    scores_of,
)

#: Batches by which an axis of the batch is told from one that has the same size by chance.
_COUNTS = (2, 3)


@dataclass(frozen=True)
class Outputs:
    """The outputs of a module.

    Attributes:
        raw: by name, of one example.
        end: the kind of operator that the first one comes from.
    """

    flattening: Flattening
    raw: tuple[TensorSpec, ...]
    end: End = "other"


def find_outputs(module: nn.Module, preparation: Preparation, card: Card, file: Path) -> Outputs:
    """Run forwards to see what the module returns.

    Raises:
        ConfigurationError: it fails, or returns something else than its task needs or its card says.
    """
    if card.task == "tensor":
        return _tensors(module, preparation, card, file)
    return _only_one(module, preparation, card, file)


def check_found(folder: ModelFolder, version: str, outputs: Sequence[TensorSpec], records: Records) -> None:
    """Refuse a model of the same version whose outputs, which its card leaves out, are not those that clients know.

    Raises:
        ConfigurationError: an earlier start found others; what the model imports may have changed.
    """
    if folder.card.task != "tensor" or folder.card.outputs:
        return
    if before := records.same_outputs(version, tuple(outputs)):
        now = ", ".join(f"{spec.name} ({said_of_shape(spec.dtype, spec.shape)})" for spec in outputs)
        words = f"forward gives {now}, and an earlier start of version {version} found {before}"
        fix = "declare under [outputs.NAME] what it must give, which also makes it another version"
        raise ConfigurationError.at(folder.path / CARD_FILE, "outputs", words, fix)


def _forward(module: nn.Module, preparation: Preparation, arrays: Sequence[Tensor], card: Card, file: Path) -> Any:
    positional, by_name = preparation.forward(*arrays)
    return first_forward(module, positional, by_name, card, file)


def _only_one(module: nn.Module, preparation: Preparation, card: Card, file: Path) -> Outputs:
    """Find the one output of a classifier or a regression: `(1, K)` for one example."""
    positional, by_name = preparation.forward(*preparation.examples(1))
    with torch.inference_mode():
        try:
            returned, end = end_of(lambda: module(*positional, **by_name), scores_of)
        except (Exception, SystemExit):  # the model's fault, which is explained, or one of looking at its operators
            returned, end = first_forward(module, positional, by_name, card, file), "other"
    scores = scores_of(returned)
    is_right = isinstance(scores, Tensor) and scores.is_floating_point() and scores.dim() and len(scores) == 1
    if card.task == "regression":
        is_right = is_right and scores.dim() <= 2 and scores.numel() > 0
        wanted = "it must give (1, numbers), or (1,) for one number"
    else:
        is_right = is_right and scores.dim() == 2 and scores.shape[1] > 0
        wanted = "it must give (1, classes)"
    if not is_right:
        words = f"{said_of_arguments(positional, by_name)} gives {said_of(scores)}"
        raise ConfigurationError.at(file, "architecture", words, wanted)
    key = None if scores is returned else key_of_scores(returned)
    spec = TensorSpec("scores", _dtype_of(scores), tuple(scores.shape[1:]))
    return Outputs(Flattening([key], [0]), (spec,), end)


def _tensors(module: nn.Module, preparation: Preparation, card: Card, file: Path) -> Outputs:
    """Find every tensor that comes out, or those that the card declares."""
    with torch.inference_mode():
        returned = [_forward(module, preparation, preparation.examples(count), card, file) for count in _COUNTS]
    found = [named_outputs(each) for each in returned]
    if not found[0]:
        raise ConfigurationError.at(
            file, "architecture", f"forward returned {said_of(returned[0])}", "it must return tensors"
        )
    declared = card.output_specs
    keys = _keys(declared, found[0], file) if declared else {name: key for name, (key, _) in found[0].items()}
    by_key = [dict(each.values()) for each in found]
    specs = []
    for name, key in keys.items():
        given = next((spec for spec in declared if spec.name == name), None)
        batches = [each[key] for each in by_key if key in each]
        if len(batches) < len(_COUNTS):
            words = f"is returned for {_COUNTS[0]} examples and not for {_COUNTS[1]}"
            raise ConfigurationError.at(file, f"outputs.{name}", words, "return the same outputs for every batch")
        specs.append(_spec(name, batches, given, file))
    return Outputs(Flattening(list(keys.values()), [spec.batch_axis for spec in specs]), tuple(specs))


def _keys(
    declared: Sequence[TensorSpec], found: dict[str, tuple[str | int | None, Tensor]], file: Path
) -> dict[str, str | int | None]:
    """Return where each declared output is: under its name, or in its place."""
    by_name = any(isinstance(key, str) for key, _ in found.values())
    places = [key for key, _ in found.values()]
    keys: dict[str, str | int | None] = {}
    for place, spec in enumerate(declared):
        if by_name and spec.name in found:
            keys[spec.name] = found[spec.name][0]
        elif not by_name and place < len(places):
            keys[spec.name] = places[place]
        else:
            there = ", ".join(found) if by_name else f"{len(places)} tensor{'s' * (len(places) != 1)}"
            fix = "name one of those, or leave [outputs] out" if by_name else "declare no more than those"
            raise ConfigurationError.at(file, f"outputs.{spec.name}", f"forward returned {there} and not this", fix)
    return keys


def _spec(name: str, batches: Sequence[Tensor], declared: TensorSpec | None, file: Path) -> TensorSpec:
    """Return what an output is, of one example, after a look at it in batches of `_COUNTS`.

    Raises:
        ConfigurationError: it has no batch, its shape changes with the batch, or it is not what was declared.
    """
    axis = declared.batch_axis if declared else 0
    key = f"outputs.{name}"
    shapes = [tuple(batch.shape) for batch in batches]
    if any(len(shape) <= axis or shape[axis] != count for shape, count in zip(shapes, _COUNTS, strict=True)):
        words = f"is {_said(batches[0])} for {_COUNTS[0]} examples, without the batch along axis {axis}"
        raise ConfigurationError.at(file, key, words, _advice(shapes, axis))
    rows = [shape[:axis] + shape[axis + 1 :] for shape in shapes]
    if rows[0] != rows[1]:
        words = f"is {shapes[0]} for {_COUNTS[0]} examples and {shapes[1]} for {_COUNTS[1]}"
        raise ConfigurationError.at(file, key, words, "each example must have an output of one fixed shape")
    spec = TensorSpec(name, _dtype_of(batches[0]), rows[0], axis, finite=declared.finite if declared else True)
    if declared and declared != spec:
        found, promised = (said_of_shape(each.dtype, each.shape) for each in (spec, declared))
        raise ConfigurationError.at(
            file, key, f"is {found} for one example, and the card says {promised}", "correct the card"
        )
    return spec


def _advice(shapes: Sequence[tuple[int, ...]], axis: int) -> str:
    for place in range(min(map(len, shapes))):
        if place != axis and all(shape[place] == count for shape, count in zip(shapes, _COUNTS, strict=True)):
            return f"set batch_axis = {place} under [outputs.NAME]"
    return "return one row for each example, such as output.expand(len(x), ...), or declare other outputs only"


def _dtype_of(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _said(tensor: Tensor) -> str:
    return said_of_shape(_dtype_of(tensor), tensor.shape)
