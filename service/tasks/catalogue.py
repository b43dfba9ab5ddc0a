"""The tasks that a card may name. A new one is a line here, and a file for each of its sides that is new.

Sides are named as `MODULE:NAME` and imported where they are used: each process imports only its own.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple


class Task(NamedTuple):
    """One task.

    Attributes:
        head: makes results of a module's outputs, in the engine.
        output: writes answers of results, in the front end.
        takes_files: whether its input may be a file that `[input]` is about.
    """

    head: str
    output: str
    takes_files: bool


class InputKind(NamedTuple):
    """One way from a body to a module's input: the front end's side, and the engine's."""

    input: str
    preparation: str


_HEADS, _OUTPUTS = "service.tasks.adapters.heads", "service.tasks.outputs"
TASKS = {
    "classification": Task(f"{_HEADS}:ClassesHead", f"{_OUTPUTS}.classes:ClassesOutput", True),
    "regression": Task(f"{_HEADS}:ValuesHead", f"{_OUTPUTS}.values:ValuesOutput", True),
    "tensor": Task(f"{_HEADS}:TensorsHead", f"{_OUTPUTS}.nested:TensorsOutput", False),
}

#: `picture` takes what `[input]` of a card is about, `tensors` what `[inputs.NAME]` are.
INPUTS = {
    "picture": InputKind("service.tasks.inputs.picture_bodies:PictureInput", "service.tasks.adapters.picture:Picture"),
    "tensors": InputKind("service.tasks.inputs.tensor_bodies:TensorsInput", "service.tasks.adapters.plain:Plain"),
}


def side(name: str) -> Any:
    """Return what `MODULE:NAME` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
