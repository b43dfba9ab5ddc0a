"""The content of a file of weights, read without running any of it, and the state_dict in it that a card means."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import structlog
import torch
from torch import Tensor

from service.errors import ConfigurationError, blamed_on, shortened
from service.loader.file_kinds import SAVE, is_safetensors, refuse_other_kinds
from service.loader.pickles import refusal
from service.loader.prefixes import Shapes, best_fit

log = structlog.get_logger()

_MOST_LISTED = 10
#: Lines for the card that a refusal offers.
_MOST_OFFERED = 3
#: Checkpoints hold state_dicts at most this deep: `{"ema": {"module": {…}}}`.
_DEPTH = 3


def read_content(path: Path) -> Any:
    """Return the content of a file of weights: a state_dict, or a checkpoint with one in it.

    Raises:
        ConfigurationError: it is broken, or holds something else; nothing of it is executed.
    """
    with blamed_on(path, "weights", "reading it", SAVE):
        refuse_other_kinds(path)
        if is_safetensors(path):
            return safetensors.torch.load_file(path)
        try:
            with path.open("rb") as file:  # of a path, torch goes by the ending
                return torch.load(file, weights_only=True, map_location="cpu")
        except OSError:
            raise
        except Exception as error:
            raise ConfigurationError.at(path, "weights", *refusal(path, error)) from error


def choose(content: Any, path: Path, card_file: Path, key: str | None, wanted: Shapes) -> Mapping[str, Any]:
    """Return the state_dict that a card means: the one under its `checkpoint_key`, or the only one that fits.

    Args:
        wanted: the architecture's names with their shapes.

    Raises:
        ConfigurationError: there is none, or there are several and the card names none of them.
    """
    if key is not None:
        return _named(content, path, card_file, key, wanted)
    if is_state(content):
        return _not_empty(content, path)
    found = dict(_states(content)) if isinstance(content, dict) else {}
    if not found:
        raise ConfigurationError.at(path, "weights", _none_in(content), SAVE)
    fitting = [name for name, state in found.items() if best_fit(state, wanted).count]
    if len(found) > 1 and len(fitting) != 1:
        fullest = sorted(fitting or found, key=lambda name: best_fit(found[name], wanted).count, reverse=True)
        choices = [f"checkpoint_key = {_quoted(name)}" for name in fullest[:_MOST_OFFERED]]
        fix = f"choose one on the card: {' or '.join(choices)}"
        words = f"{path.name} holds {len(found)} state_dicts: {_listed(found, wanted)}"
        raise ConfigurationError.at(card_file, "weights", words, fix)
    return found[fitting[0] if fitting else next(iter(found))]


def strip(state: Mapping[str, Any], prefix: str, card_file: Path, wanted: Shapes) -> Mapping[str, Any]:
    """Return the state_dict with a prefix removed; names without it stay where the architecture needs them.

    Raises:
        ConfigurationError: no name begins with it.
    """
    stripped = OrderedDict(
        (name.removeprefix(prefix), value) for name, value in state.items() if name.startswith(prefix)
    )
    if not stripped:
        words = f"no key of the weights begins with {_quoted(prefix)}; they are {shortened([*state], 3)}"
        raise ConfigurationError.at(card_file, "strip_prefix", words, "correct it, or leave it out")
    others = [name for name in state if not name.startswith(prefix)]
    needed = [name for name in others if name in wanted and name not in stripped]
    stripped.update((name, state[name]) for name in needed)
    if left := len(others) - len(needed):
        log.info("weights left out", card=str(card_file), tensors=left, why=f"they do not begin with {prefix}")
    versions = getattr(state, "_metadata", None) or {}  # of modules, whose names lack the dot at the end
    vars(stripped)["_metadata"] = OrderedDict(
        (f"{name}.".removeprefix(prefix).removesuffix("."), value)
        for name, value in versions.items()
        if f"{name}.".startswith(prefix)
    )
    return stripped


def is_state(content: object) -> bool:
    """Return whether it is names to tensors, and to what modules keep as their `_extra_state`."""
    return isinstance(content, dict) and all(_may_be_in_state(key, value) for key, value in content.items())


def _may_be_in_state(key: object, value: object) -> bool:
    return isinstance(key, str) and (isinstance(value, Tensor) or is_extra_state(key))


def is_extra_state(key: str) -> bool:
    """Keys of what a module keeps beside its tensors (`nn.Module.get_extra_state`), which may be anything."""
    return key.rpartition(".")[2] == "_extra_state"


def _not_empty(state: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    if not state:
        raise ConfigurationError.at(path, "weights", "holds no tensor", SAVE)
    return state


# The content of a checkpoint


def _states(content: Mapping[Any, Any], before: str = "", depth: int = 1) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each state_dict in a checkpoint, with the keys that lead to it."""
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, dict):
            continue
        if value and is_state(value):
            yield before + key, value
        elif depth < _DEPTH:
            yield from _states(value, f"{before}{key}.", depth + 1)


def _named(content: Any, path: Path, card_file: Path, key: str, wanted: Shapes) -> Mapping[str, Any]:
    found = _at(content, key)
    if found is not None and is_state(found):
        state: Mapping[str, Any] = found
        return _not_empty(state, path)
    if is_state(content):
        words = f"{path.name} is a state_dict itself, and holds no other under {_quoted(key)}"
        raise ConfigurationError.at(card_file, "checkpoint_key", words, "leave it out")
    states = dict(_states(content)) if isinstance(content, dict) else {}
    there = f"there are {_listed(states, wanted)}" if states else f"the file {_none_in(content)}"
    words = f"is {_named_type(found)}, not a state_dict" if found is not None else "is not there"
    raise ConfigurationError.at(card_file, "checkpoint_key", f"{_quoted(key)} of {path.name} {words}", there)


def _at(content: Any, key: str) -> Any:
    """Return the value of a key, whose dots may lead deeper; a key that contains the dots itself comes first."""
    if not isinstance(content, dict):
        return None
    if key in content:
        return content[key]
    parts = key.split(".")
    for length in range(len(parts) - 1, 0, -1):
        inside = content.get(".".join(parts[:length]))
        if (found := _at(inside, ".".join(parts[length:]))) is not None:
            return found
    return None


def _listed(states: Mapping[str, Mapping[str, Any]], wanted: Shapes) -> str:
    """State_dicts by their keys, each with its number of tensors and how many of them fit."""
    return shortened([_counted(name, state, wanted) for name, state in states.items()], _MOST_LISTED)


def _counted(name: str, state: Mapping[str, Any], wanted: Shapes) -> str:
    fit = best_fit(state, wanted)
    without = f" without {_quoted(fit.prefix)}" if fit.prefix else ""
    tensors = f"{len(state)} tensor{'s' * (len(state) != 1)}"
    return f"{name} ({tensors}, of which {fit.count} fit the architecture{without})"


def _none_in(content: Any) -> str:
    """Say what the content is instead of a state_dict."""
    if not isinstance(content, dict):
        return f"is not a state_dict (names to tensors) but a {type(content).__name__}"
    others = [f"{key} ({_named_type(value)})" for key, value in content.items() if not _may_be_in_state(key, value)]
    if tensors := len(content) - len(others):
        return f"is not a state_dict: it holds {shortened(others, _MOST_LISTED)} and {tensors} tensors"
    return f"holds no state_dict (names to tensors); its keys are {shortened(others, _MOST_LISTED)}"


def _named_type(value: object) -> str:
    name = type(value).__name__
    return f"a {name}" if name[0] not in "aeiou" else f"an {name}"


def _quoted(text: str) -> str:
    return f'"{text}"'
