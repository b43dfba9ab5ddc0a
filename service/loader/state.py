"""Fill a module with weights. Its own `load_state_dict` decides what fits, so what torch loads is loaded here too.

Modules know more than names and shapes: version hooks fill what older files lack, and pre-hooks rename what was once
called otherwise. Ties are looked at here, because files of safetensors hold a shared tensor under one name only.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from service.errors import ConfigurationError, shortened
from service.loader.prefixes import prefix_hint

log = structlog.get_logger()

_MOST_LISTED = 20
_FIX = "use weights that were saved from this architecture, or change [architecture_arguments]"
#: torch's words about one tensor: https://github.com/pytorch/pytorch/blob/main/torch/nn/modules/module.py
_MISMATCH = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*?)\]\) from checkpoint, "
    r"the shape in current model is torch\.Size\(\[(.*?)\]\)\."
)
_KEYS = re.compile(r"(Missing|Unexpected) key\(s\) in state_dict: ")
#: DenseNet's files hold names that modules may no longer have; torchvision.models.densenet renames them likewise.
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))")


@dataclass
class _Told:
    """A module's answer to a state_dict: torch's two lists, and the error that it ended with."""

    missing: list[str]
    unexpected: list[str]
    error: Exception | None = None


def fill(module: nn.Module, state: Mapping[str, Any], card_file: Path, stripped: str = "") -> None:
    """Load a state_dict, and leave nothing as it was drawn.

    Args:
        stripped: the prefix that the names had in the file.

    Raises:
        ConfigurationError: keys are missing, unexpected or of another shape; all are listed together. The module may
            then hold some of the weights.
    """
    state = _renamed(state, module)
    before = _drawn(module)
    told = _load(module, state, strict=True)
    problems = list(_problems(told, _untied(module, told.missing)))
    if told.error and not problems:  # only ties were missing, and what follows the loading has not run yet
        told = _load(module, state, strict=False)
        problems = [] if told.error is None else [_listed("cannot be loaded", [_one_line(told.error)])]
    if not problems and (left := _left_as_drawn(module, before, state)):
        problems = [_listed("missing from the weights", left)]
    if problems:
        if hint := prefix_hint(state, module.state_dict(keep_vars=True), stripped):
            problems = [hint]
        raise ConfigurationError([f"{card_file}: weights: {problem}" for problem in problems])
    _tell_casts(module, state, card_file)


def _load(module: nn.Module, state: Mapping[str, Any], strict: bool) -> _Told:
    told, heard = _Told([], []), False

    def listen(_: nn.Module, keys: Any) -> None:
        nonlocal heard
        heard = True
        told.missing, told.unexpected = keys.missing_keys, keys.unexpected_keys

    # Parameters on the meta device have no memory to copy to: they become those of the file.
    more = {"assign": True} if any(parameter.is_meta for parameter in module.parameters()) else {}
    hook = module.register_load_state_dict_post_hook(listen)  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():  # of casts the log tells more
            warnings.filterwarnings("ignore", "Casting complex values to real")
            module.load_state_dict(state, strict=strict, **more)
    except Exception as error:  # the operator's code may have overridden it
        told.error = error
        if not heard and _loads_as_torch_does(module):  # it broke off before it had looked at every key
            wanted = module.state_dict(keep_vars=True)
            told.missing = [key for key in wanted if key not in state]
            told.unexpected = [key for key in state if key not in wanted]
    finally:
        hook.remove()
    return told


def _renamed(state: Mapping[str, Any], module: nn.Module) -> Mapping[str, Any]:
    """The state_dict with the old names of DenseNet's layers replaced, where the module has the new ones."""
    wanted = module.state_dict(keep_vars=True).keys()
    names = {key: "".join(found.groups()) for key in state if (found := _OLD_DENSENET.fullmatch(key))}
    names = {old: new for old, new in names.items() if old not in wanted and new in wanted and new not in state}
    if not names:
        return state
    renamed = OrderedDict((names.get(key, key), value) for key, value in state.items())
    vars(renamed).update(getattr(state, "__dict__", {}))  # the versions of its modules, in `_metadata`
    return renamed


def _problems(told: _Told, missing: list[str]) -> Iterator[str]:
    """Yield everything that a module reported, in words; `missing` are the keys that no tie accounts for."""
    if missing:
        yield _listed("missing from the weights", missing)
    if told.unexpected:
        yield _listed("unexpected in the weights", told.unexpected)
    if told.error is None:
        return
    text = str(told.error)
    if reshaped := [
        f"{key} is {_shape(found)}, the architecture needs {_shape(wanted)}"
        for key, found, wanted in _MISMATCH.findall(text)
    ]:
        yield _listed("of another shape", reshaped)
    if others := _other_words(told, text):
        yield _listed("cannot be loaded", others)


def _other_words(told: _Told, text: str) -> list[str]:
    """The lines of the error that are not about keys and shapes."""
    heard = bool(told.missing or told.unexpected)
    lines = [line.strip() for line in text.splitlines()[1:]]
    if not isinstance(told.error, RuntimeError) or not text.startswith("Error(s) in loading state_dict"):
        return [_one_line(told.error)]
    return [line for line in lines if not _MISMATCH.match(line) and not (heard and _KEYS.match(line))]


def _one_line(error: Exception | None) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _shape(sizes: str) -> str:
    return str(tuple(int(size) for size in sizes.split(",") if size.strip()))


def _listed(what: str, found: list[str]) -> str:
    return f"{what}: {shortened(found, _MOST_LISTED)}; {_FIX}"


def _untied(module: nn.Module, missing: Iterable[str]) -> list[str]:
    """The missing keys whose tensors were not filled under another name either."""
    named = module.state_dict(keep_vars=True)
    filled = [tensor for name, tensor in named.items() if name not in set(missing) and isinstance(tensor, Tensor)]
    held = {_memory(tensor) for tensor in filled}
    whole = {_storage(tensor) for tensor in filled if _covers_storage(tensor)}

    def is_tied(tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and (_memory(tensor) in held or _storage(tensor) in whole)

    return [name for name in missing if not is_tied(named.get(name))]


def _memory(tensor: Tensor) -> tuple[object, ...]:
    """Return what is equal for tensors that are one: in one storage, at one place, of one shape."""
    if is_lazy(tensor) or tensor.is_meta or not tensor.numel():
        return (id(tensor),)
    return _storage(tensor), tensor.storage_offset(), tensor.shape, tensor.stride()


def _storage(tensor: Tensor) -> int:
    if is_lazy(tensor) or tensor.is_meta or not tensor.numel():
        return id(tensor)
    return tensor.untyped_storage().data_ptr()


def _covers_storage(tensor: Tensor) -> bool:
    if is_lazy(tensor) or tensor.is_meta:
        return False
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _drawn(module: nn.Module) -> dict[str, Tensor]:
    """Copies of what a module was drawn with; none if it loads as torch does, and its word is enough."""
    if _loads_as_torch_does(module):
        return {}
    named = module.state_dict().items()
    return {name: tensor.clone() for name, tensor in named if isinstance(tensor, Tensor) and _is_random(tensor)}


def _loads_as_torch_does(module: nn.Module) -> bool:
    return getattr(module.load_state_dict, "__func__", None) is nn.Module.load_state_dict


def _is_random(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and not tensor.is_meta and (tensor.is_floating_point() or tensor.is_complex())


def _left_as_drawn(module: nn.Module, before: Mapping[str, Tensor], state: Mapping[str, Any]) -> list[str]:
    """Names of tensors that still hold what they were drawn with, and that no tensor of the file is equal to."""
    now = module.state_dict()
    same = [name for name, tensor in before.items() if name in now and _equal(now[name], tensor)]
    given = [value for value in state.values() if isinstance(value, Tensor)]
    return [name for name in same if not any(_equal(before[name], value) for value in given)]


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other.to(one.dtype))


def _tell_casts(module: nn.Module, state: Mapping[str, Any], card_file: Path) -> None:
    """torch casts in silence what a file holds in another dtype; the log says it, and warns where something is lost."""
    casts: Counter[tuple[torch.dtype, torch.dtype]] = Counter()
    for name, tensor in module.state_dict().items():
        given = state.get(name)
        if isinstance(tensor, Tensor) and isinstance(given, Tensor) and given.dtype != tensor.dtype:
            casts[given.dtype, tensor.dtype] += 1
    for (found, wanted), count in casts.items():
        lossless = torch.promote_types(found, wanted) == wanted
        tell = log.info if lossless else log.warning
        tell("weights cast", card=str(card_file), found=str(found), to=str(wanted), tensors=count)
