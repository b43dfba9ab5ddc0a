"""torchvision, without torch's compiler: everything here imports torchvision from this file.

`import torchvision` imports `torch._dynamo`, and with that Inductor, Triton and SymPy: a thousand modules, more than a
second, and 160 MiB in each server, of which serving uses nothing. It is for two names: RoIAlign asks dynamo whether it
could be compiled, and `torch.compiler.disable` hides a function of `tv_tensors` from it. Both can wait until a model
is compiled. See docs/decisions/0008-torchvision-without-dynamo.md.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

_NAMES = ("torch._dynamo", "torch._dynamo.utils")


class _NotYet(ModuleType):
    """Stands in for a module; asked for anything that it was not given, it makes way for the real one."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks of any module
            raise AttributeError(name)
        _make_way()
        return getattr(importlib.import_module(self.__name__), name)


class _RealParts(MetaPathFinder, Loader):
    """Finds what is imported from below a stand-in: there it makes way too."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        below = name.startswith(f"{_NAMES[0]}.") and isinstance(sys.modules.get(_NAMES[0]), _NotYet)
        return ModuleSpec(name, self) if below else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        _make_way()
        return importlib.import_module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """It was when it was imported."""


def _make_way() -> None:
    for name in _NAMES:
        if isinstance(sys.modules.get(name), _NotYet):
            del sys.modules[name]


def _is_compile_supported(device_type: str) -> bool:
    """Stand-in for `torch._dynamo.utils`: nothing is being compiled."""
    return bool(importlib.import_module("torch._dynamo.utils").is_compile_supported(device_type))


def _disable(function: Callable[..., Any] | None = None, *_: object, **__: object) -> Any:
    """Return the function unchanged, or a decorator that does so: transforms are never compiled here."""
    return function or (lambda function: function)


@contextlib.contextmanager
def _without_dynamo() -> Iterator[None]:
    """Inside, importing it gives a stand-in, unless it was imported before; afterwards, the real module."""
    if _NAMES[0] in sys.modules:
        yield
        return
    dynamo, utils = (_NotYet(name) for name in _NAMES)
    vars(dynamo).update(disable=_disable, utils=utils, __path__=[])
    vars(utils).update(is_compile_supported=_is_compile_supported)
    sys.modules.update(zip(_NAMES, (dynamo, utils), strict=True))
    parts = _RealParts()
    sys.meta_path.insert(0, parts)
    try:
        yield
    finally:
        sys.meta_path.remove(parts)
        _make_way()


with _without_dynamo():
    import torchvision
    import torchvision.models
    from torchvision.io import ImageReadMode
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

#: `(data, mode, apply_exif_orientation)`: the operator beneath `torchvision.io.decode_image`, which takes 4 µs, a sixth
#: of a thumbnail's decoding, for a warning and three checks.
decode_image = torch.ops.image.decode_image.default

__all__ = ["ImageReadMode", "InterpolationMode", "decode_image", "torchvision", "transforms"]
