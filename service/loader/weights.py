"""Build the module of a card with its weights: from a file, from torchvision, random, or as its factory made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from service.errors import ConfigurationError, blamed_on
from service.loader.architecture import Code, architecture, code_of, forgotten_on_failure
from service.loader.arguments import KEY
from service.loader.card import CARD_FILE
from service.loader.checkpoint import choose, is_extra_state, read_content, strip
from service.loader.code import digest_of
from service.loader.prefixes import shapes_of
from service.loader.report import Finding
from service.loader.repository import ModelFolder, package_file
from service.loader.resolved import torchvision_weights
from service.loader.seeded import factory_module, random_module
from service.loader.state import fill


@dataclass(frozen=True)
class Assembled:
    """A module with its weights, and what else its answers come from.

    Attributes:
        beyond: for the version, what the weights file holds besides tensors; empty if there is nothing.
        findings: oddities of the weights.
    """

    module: nn.Module
    beyond: list[bytes]
    findings: tuple[Finding, ...] = ()


def build(folder: ModelFolder) -> nn.Module:
    """Build the architecture with its weights, on the CPU, not yet frozen.

    Raises:
        ConfigurationError: the architecture cannot be made, or the weights do not fit it.
    """
    with forgotten_on_failure(code_of(folder)) as code:
        return assemble(folder, code).module


def assemble(folder: ModelFolder, code: Code | None) -> Assembled:
    """Make the module of `build` with the given code, and name what a version has to cover.

    Raises:
        ConfigurationError: as for `build`.
    """
    kind, rest = folder.card.part("weights")
    if kind == "random":
        words = f'With weights = "{folder.card.weights}" the model is untrained, so its answers mean nothing.'
        return Assembled(random_module(folder, code, int(rest)), [], (Finding("untrained", "warning", words),))
    if kind == "factory":
        module, drawn = factory_module(folder, code)
        return Assembled(module, [], drawn)
    module = architecture(folder, code)
    state, beyond = _state_dict(folder, kind, rest, module)
    fill(module, state, folder.path / CARD_FILE, folder.card.strip_prefix or "")
    return Assembled(module, beyond)


def _state_dict(folder: ModelFolder, kind: str, rest: str, module: nn.Module) -> tuple[Mapping[str, Any], list[bytes]]:
    file = folder.path / CARD_FILE
    if kind == "torchvision":
        weights = torchvision_weights(folder.card, folder.path)
        _check_classes(folder, rest, weights)
        with blamed_on(
            file, "weights", f"fetching {rest}", "download the weights beforehand, or name a file of them: file:NAME"
        ):
            return weights.get_state_dict(progress=False, check_hash=True, weights_only=True), []
    path = folder.path / rest if kind == "file" else package_file(rest)
    if path is None:
        raise ConfigurationError.at(file, "weights", f"{rest} is not there", "install its package")
    card, wanted = folder.card, shapes_of(module)
    state = choose(read_content(path), path, file, card.checkpoint_key, wanted)
    if card.strip_prefix:
        state = strip(state, card.strip_prefix, file, wanted)
    # A seal is over tensors alone.
    return state, [digest_of(path)] if any(map(is_extra_state, state)) else []


def _check_classes(folder: ModelFolder, name: str, weights: Any) -> None:
    """Refuse an architecture of another number of classes than torchvision's weights.

    Raises:
        ConfigurationError: the card asks for one.
    """
    wanted, found = folder.card.architecture_arguments.get("num_classes"), len(weights.meta.get("categories", ()))
    if wanted is not None and found and wanted != found:
        words = f"num_classes = {wanted}, but {name} are weights of {found} classes"
        fix = f"leave num_classes out, or name weights that were trained for {wanted}"
        raise ConfigurationError.at(folder.path / CARD_FILE, KEY, words, fix)
