"""Modules that a file's `import` statements may mean, read from its text: those in functions count as well."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def imported_names(source: bytes, package: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield every module that a source may import: 0 or 1 for absolute or relative, and the parts of its name.

    Names of relative imports count from the outermost package. `from a import b` may mean `a.b`, so that comes too.

    Args:
        package: the parts of the package that the source is in.

    Raises:
        SyntaxError: it is not Python.
        ValueError: it holds null bytes.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((0, tuple(alias.name.split("."))) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level - 1 <= len(package):
            base = (*package[: len(package) - node.level + 1],) if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            yield min(node.level, 1), base
            yield from ((min(node.level, 1), (*base, alias.name)) for alias in node.names if alias.name != "*")
