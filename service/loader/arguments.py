"""A card's `[architecture_arguments]`: a factory gets them by keyword, and one that it does not accept is named."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Any

from service.errors import ConfigurationError, shortened

KEY = "architecture_arguments"
_MOST_LISTED = 12
#: Python's words: https://github.com/python/cpython/blob/main/Python/ceval.c
_UNEXPECTED = re.compile(r"(?:([\w.]+)\.__init__|[\w.]+)\(\) got an unexpected keyword argument '(\w+)'")
_BY_KEYWORD = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
#: Parameters of torchvision's builders that the card's other keys decide.
_NOT_OFFERED = ("weights", "progress")


def call(factory: Callable[..., Any], arguments: Mapping[str, object], called: str, card_file: Path) -> Any:
    """Call a factory with its arguments by keyword.

    Args:
        called: the factory in words.

    Raises:
        ConfigurationError: an argument is not one of the factory's, or one that it needs is missing.
        Exception: whatever the factory raises.
    """
    takes = _parameters(factory)
    if takes is not None:
        if not any(each.kind is Parameter.VAR_KEYWORD for each in takes):
            for key in arguments:
                if key not in _names(takes):
                    raise _unknown(key, _names(takes), called, card_file)
        needed = [each.name for each in takes if each.kind in _BY_KEYWORD and each.default is Parameter.empty]
        if missing := [name for name in needed if name not in arguments]:
            words = f"{called} needs {shortened(missing, _MOST_LISTED)}, without a default"
            lines = ", ".join(f"{name} = …" for name in missing[:_MOST_LISTED])
            raise ConfigurationError.at(card_file, KEY, words, f"write [{KEY}] on the card, and {lines} below it")
    try:
        return factory(**arguments)
    except TypeError as error:  # raised further in, by a class that was handed them on
        found = _UNEXPECTED.search(str(error))
        if not found or found[2] not in arguments:
            raise
        raise _unknown(found[2], _names_further_in(factory, found[1]), called, card_file) from error


def _parameters(factory: Callable[..., Any]) -> Sequence[Parameter] | None:
    """The factory's parameters; None if Python cannot tell."""
    try:
        return list(inspect.signature(factory).parameters.values())
    except (ValueError, TypeError):
        return None


def _names(parameters: Sequence[Parameter]) -> list[str]:
    return [each.name for each in parameters if each.kind in _BY_KEYWORD and each.name not in _NOT_OFFERED]


def _names_further_in(factory: Callable[..., Any], name: str | None) -> list[str]:
    """Return the parameters with a default of the class of that name beside the factory, which gives the others."""
    beside = getattr(sys.modules.get(factory.__module__), name or "", None)
    takes = _parameters(beside) if inspect.isclass(beside) else None
    return _names([each for each in takes or () if each.default is not Parameter.empty])


def _unknown(key: str, names: Sequence[str], called: str, card_file: Path) -> ConfigurationError:
    close = difflib.get_close_matches(key, names, 1)
    fix = f"its parameters are {shortened(names, _MOST_LISTED)}" if names else "leave it out"
    fix = f"did you mean {close[0]}?" if close else fix
    return ConfigurationError.at(card_file, KEY, f"{called} has no parameter {key}", fix)
