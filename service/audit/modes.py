"""The modes that are compared: what each does to a module, and under which context it runs.

The three mechanisms are kept apart on purpose: `eval+no_grad` and `eval+inference_mode` leave every parameter as it
is, so that what is seen is the mode's doing alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from service.errors import ConfigurationError
from service.loader.card import CARD_FILE
from service.loader.freeze import freeze
from service.loader.repository import ModelFolder


@dataclass(frozen=True)
class Mode:
    """`prepare(module, classifier)` is called once; each forward runs inside a `context()`."""

    prepare: Callable[[nn.Module, str], object]
    context: Callable[[], AbstractContextManager[object]]


def _train(module: nn.Module, classifier: str) -> None:
    module.train().requires_grad_(True)


def _evaluate(module: nn.Module, classifier: str) -> None:
    module.eval().requires_grad_(True)


def _freeze(module: nn.Module, classifier: str) -> None:
    freeze(module)


def _freeze_all_but_the_classifier(module: nn.Module, classifier: str) -> None:
    freeze(module)
    module.get_submodule(classifier).requires_grad_(True)


#: By name. `served` is not here: it is the engine's own function.
PLAIN_MODES = {
    "train+grad": Mode(_train, nullcontext),
    "eval+grad": Mode(_evaluate, nullcontext),
    "eval+classifier_trainable": Mode(_freeze_all_but_the_classifier, nullcontext),
    "eval+frozen": Mode(_freeze, nullcontext),
    "eval+no_grad": Mode(_evaluate, torch.no_grad),
    "eval+inference_mode": Mode(_evaluate, torch.inference_mode),
}


def classifier_of(folder: ModelFolder, module: nn.Module) -> str:
    """Return the submodule that transfer learning trains: the card's `classifier`, else the last child with parameters.

    Raises:
        ConfigurationError: the card names one that is not there, or no child has parameters.
    """
    file, children = folder.path / CARD_FILE, [name for name, child in module.named_children() if any_parameter(child)]
    if named := folder.card.classifier:
        if named not in dict(module.named_modules()):
            words = f"the model has no submodule {named!r}"
            raise ConfigurationError.at(file, "classifier", words, f"there are {', '.join(children)}")
        return named
    if not children:
        raise ConfigurationError.at(file, "classifier", "no child of the model has parameters", "name one that has")
    return children[-1]


def any_parameter(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
