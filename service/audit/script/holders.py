"""Places where a script keeps what has a graph: the name that holds it, and the line that puts it there."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from service.audit.script.calls import ScriptTrial
from service.audit.script.lines import Line

_ADDING = {"append", "appendleft", "add", "extend", "insert", "update", "setdefault"}


def kept_at(trial: ScriptTrial) -> Line | None:
    """Return the first line that adds to a name, of a module or the script, under which a graph is kept."""
    function = trial.function.forward if isinstance(trial.function, nn.Module) else trial.function
    code = getattr(function, "__code__", None)
    scope = getattr(function, "__globals__", {})
    if code is None or not Path(code.co_filename).is_file():
        return None
    spaces = [scope, *(vars(module) for module in trial.watch.modules)]
    names = {name for space in spaces for name, value in list(space.items()) if _holds_graph(value)}
    lines = sorted(_lines_that_add(ast.parse(Path(code.co_filename).read_bytes()), names))
    return Line(code.co_filename, lines[0]) if lines else None


def _holds_graph(value: Any) -> bool:
    if not isinstance(value, list | dict | tuple | set | Tensor) and type(value).__name__ != "deque":
        return False
    items: Iterable[Any] = value if isinstance(value, set) or type(value).__name__ == "deque" else tree_iter(value)
    return any(isinstance(item, Tensor) and item.grad_fn is not None for item in items)


def _lines_that_add(tree: ast.AST, names: set[str]) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _ADDING:
            target: ast.expr | None = node.func.value
        elif isinstance(node, ast.AugAssign):
            target = node.target
        elif isinstance(node, ast.Assign):
            target = next((t.value for t in node.targets if isinstance(t, ast.Subscript)), node.targets[0])
            if isinstance(target, ast.Name) and not _mentions(node.value, names):
                continue  # where it begins, empty
        else:
            continue
        if _name_of(target) in names:
            yield node.lineno


def _mentions(expression: ast.expr, names: set[str]) -> bool:
    return any(_name_of(node) in names for node in ast.walk(expression) if isinstance(node, ast.expr))


def _name_of(target: ast.expr | None) -> str:
    if isinstance(target, ast.Name):
        return target.id
    return target.attr if isinstance(target, ast.Attribute) else ""
