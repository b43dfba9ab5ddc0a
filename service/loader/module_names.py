"""The meaning of a module's name: a file of the model's folder, an installed module, or neither.

An installed module comes before a file of its name. See docs/decisions/0013-whose-name-a-module-has.md.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

#: The package of this server.
OURS = __name__.partition(".")[0]


def source_of(folder: Path, module: tuple[str, ...]) -> Path | None:
    """Return the file of a module: a package comes before a file of its name, as in Python."""
    place = folder.joinpath(*module)
    files = [place / "__init__.py", *([place.with_name(f"{place.name}.py")] if module else [])]
    return next((file for file in files if file.is_file()), None)


def is_beside(folder: Path, module: str) -> bool:
    """Return whether the folder has a source of the module."""
    return source_of(folder, (*module.split("."),)) is not None


def why_not_found(module: str, factory: str, folder: Path) -> str:
    """Say why a card's module is neither in the folder nor installed; empty if it is, as far as its root tells."""
    root, dot, _ = module.partition(".")
    if is_beside(folder, module) or is_installed(root, folder):
        return ""
    if root == OURS:
        return name_taken(module)
    if dot and importlib.util.find_spec(root):  # a package in several places, without an `__init__.py`
        return ""
    file = f"{module.replace('.', '/')}.py"
    return (
        f"{file} is not in the folder, and {root} is not installed; put {file} there, with {factory}(), or install it"
    )


def is_installed(name: str, folder: Path) -> bool:
    """Return whether the name is Python's own, or is found anywhere but in the folder and in the working directory.

    A file in the directory that a server happens to be started from is not installed. Nor is our own package, which is
    none of the operator's.
    """
    if name in sys.stdlib_module_names:
        return True
    if name == OURS:
        return False
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module without a spec
        return name in sys.modules
    if spec is None or spec.origin is None:  # nowhere, or a folder without an `__init__.py`
        return False
    place = Path(spec.origin).parents[0 if spec.submodule_search_locations is None else 1]
    return place not in (folder, Path.cwd())


def name_taken(name: str) -> str:
    return f"import {name}: in this process {OURS} is Gradless's own package; put yours beside the card, or rename it"
