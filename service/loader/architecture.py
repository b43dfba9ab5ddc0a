"""The module that a card's `architecture` names, without its weights: torchvision's, or made by the operator's code."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from torch import nn

from service.errors import ConfigurationError, blamed_on, shortened
from service.host.vision import torchvision
from service.loader.arguments import call
from service.loader.card import CARD_FILE, Card
from service.loader.code import ModelCode
from service.loader.installed import InstalledCode
from service.loader.module_names import is_beside
from service.loader.repository import ModelFolder

_MOST_LISTED = 10
_FIX = "it must return a torch.nn.Module"

Code: TypeAlias = ModelCode | InstalledCode


def code_of(folder: ModelFolder) -> Code | None:
    """Return the code that makes the module: a file of the folder, else an installed module; None for torchvision."""
    entry, _ = folder.card.part("architecture")
    if entry == "torchvision":
        return None
    card = folder.card
    named = [text.partition(":")[2] for text in (card.weights, card.labels) if isinstance(text, str)]
    covered = [folder.path / name for name in (CARD_FILE, *named)]
    if is_beside(folder.path, entry):
        return ModelCode(folder.path, folder.name, entry, covered)
    return InstalledCode(folder.path, entry, covered)


@contextlib.contextmanager
def forgotten_on_failure(code: Code | None) -> Iterator[Code | None]:
    """Load a model inside; if that fails, forget all of its modules."""
    try:
        yield code
    except BaseException:
        if code:
            code.forget()
        raise


def architecture(folder: ModelFolder, code: Code | None) -> nn.Module:
    """Make the module, with its parameters still as drawn.

    Raises:
        ConfigurationError: there is no such architecture, or the operator's code fails.
    """
    _, factory = folder.card.part("architecture")
    card_file = folder.path / CARD_FILE
    if code is None:
        return _torchvision_model(factory, folder.card, card_file)
    return _made(code, factory, folder.card, card_file)


def _made(code: Code, name: str, card: Card, card_file: Path) -> nn.Module:
    with blamed_on(card_file, "architecture", f"importing {code.source}", "fix the code"):
        module = code.run()
    factory, called = _factory(module, name, code.source, card_file), f"{name}() of {code.source}"
    with blamed_on(card_file, "architecture", called, _FIX):
        made = call(factory, card.architecture_arguments, called, card_file)
    if not isinstance(made, nn.Module):
        raise ConfigurationError.at(card_file, "architecture", f"{called} returned {type(made).__name__}", _FIX)
    return made


def _factory(module: ModuleType, name: str, source: str, card_file: Path) -> Callable[..., object]:
    found = vars(module).get(name) or getattr(module, name, None)
    if found is None:
        defined = [key for key, value in vars(module).items() if _is_defined_in(module, key, value)]
        listed = shortened(defined, _MOST_LISTED) or "nothing that can be called"
        words, fix = f"{source} has no {name}(); it defines {listed}", "name one that returns a torch.nn.Module"
        raise ConfigurationError.at(card_file, "architecture", words, fix)
    if isinstance(found, nn.Module):
        words = f"{name} of {source} is a {type(found).__name__} that is made already, and each load makes its own"
        fix = f"name its class, or a function that makes one: def make(): return {type(found).__name__}(…)"
        raise ConfigurationError.at(card_file, "architecture", words, fix)
    if not callable(found):
        words = f"{name} of {source} is not a function but {type(found).__name__}"
        raise ConfigurationError.at(card_file, "architecture", words, f"{_FIX} when called")
    factory: Callable[..., object] = found
    return factory


def _is_defined_in(module: ModuleType, key: str, value: object) -> bool:
    return not key.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__


def _torchvision_model(name: str, card: Card, card_file: Path) -> nn.Module:
    if name not in torchvision.models.list_models(module=torchvision.models):
        words, right = f"torchvision has no classification model {name!r}", "see torchvision.models.list_models()"
        raise ConfigurationError.at(card_file, "architecture", words, right)
    for key in ("weights", "pretrained"):
        if key in card.architecture_arguments:
            words = f"{key} is not an argument of the architecture here"
            right = 'write weights = "torchvision:…" on the card'
            raise ConfigurationError.at(card_file, "architecture_arguments", words, right)
    options: dict[str, object] = {}
    if name in ("googlenet", "inception_v3"):
        # Without this they draw random numbers for minutes; and torchvision's own weights of these two were trained on
        # pixels of another scale, which the model makes of the usual one when asked.
        options = {"init_weights": False, "transform_input": card.part("weights")[0] == "torchvision"}
    builder = torchvision.models.get_model_builder(name)
    with blamed_on(card_file, "architecture", f"torchvision's {name}", "choose another model"):
        arguments = options | card.architecture_arguments
        built: nn.Module = call(builder, arguments, f"{name}() of torchvision", card_file)
    return built
