"""The Python files of a model's folder, run as a package of their own.

Every load has a package with a unique name, `gradless_model_1_NAME`, so that two models, or two loads of
one, never share a module, and whatever looks a class's module up in `sys.modules` finds it. Files import each other as
they would in a script's folder (`import blocks`), relatively (`from .blocks import Block`), and late, inside functions:
their `__import__` is the folder's own. Which module a name means is in `module_names.py`.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import importlib.util
import itertools
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import structlog

from service.errors import MODEL_PACKAGE
from service.loader.imported import imported_names
from service.loader.module_names import OURS, is_installed, name_taken, source_of

log = structlog.get_logger()

_numbers = itertools.count(1)


class ModelCode:
    """The code in one model's folder, for one load.

    Args:
        folder: where it is, resolved.
        model: the model's name.
        entry: the module that the card names, with dots where it is in a package: a file, or a folder with an
            `__init__.py`.
        covered: files of the folder that a version covers by what was made of them.

    Attributes:
        entry_file: the entry's source; `source` is its name in the folder.
    """

    def __init__(self, folder: Path, model: str, entry: str, covered: Collection[Path] = ()) -> None:
        self.folder = folder
        self.entry_file = source_of(folder, (*entry.split("."),)) or folder / f"{entry.replace('.', '/')}.py"
        self.source = self.entry_file.relative_to(folder).as_posix()
        self._entry = entry
        self._covered = covered
        self._package = f"{MODEL_PACKAGE}{next(_numbers)}_{re.sub(r'[^A-Za-z0-9_]', '_', model)}"
        self._sources: dict[Path, bytes] = {}
        self._named = False
        self._beside: dict[str, bool] = {}
        self.builtins = vars(builtins) | {"__import__": self._import}

    def run(self) -> ModuleType:
        """Run the entry, and what it imports.

        Raises:
            Exception: whatever the code raises.
        """
        _folders.living[self._package] = self
        self._read_reached()
        self._open_package()
        return importlib.import_module(f"{self._package}.{self._entry}")

    def forget(self) -> None:
        """Take its modules out of `sys.modules`."""
        _folders.living.pop(self._package, None)
        for name in [name for name in sys.modules if name == self._package or name.startswith(f"{self._package}.")]:
            del sys.modules[name]

    def read(self, path: Path) -> bytes:
        """Return a file's bytes, read once: code that runs late is the code that the version names.

        Raises:
            ImportError: it was not read before the model's version was named.
        """
        if path not in self._sources:
            if self._named:
                words = f"{path.name} was not imported before the model's version was named; import it at the top"
                raise ImportError(f"{words} of a file that the architecture imports")
            self._sources[path] = path.read_bytes()
        return self._sources[path]

    def name_version(self, opened: Collection[Path]) -> list[bytes]:
        """Return the entry's source, then every other file that answers depend on. No file can be imported afterwards.

        Those are the files that were imported, or may be, and what the code has opened in its folder.
        """
        self._named = True
        data = {path: digest_of(path) for path in opened if path not in self._covered and path.is_file()}
        files = data | self._sources
        names = {path: path.relative_to(self.folder).as_posix() for path in files if path != self.entry_file}
        beside = sorted(names, key=names.__getitem__)
        return [self._sources[self.entry_file], *(f"{names[path]}\n".encode() + files[path] for path in beside)]

    # Imports

    def find(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """Return the spec of a module of the package, by its full name."""
        # A finder calls whatever it is given with name and path; its stub knows classes alone.
        loaders: Any = (self._extension, EXTENSION_SUFFIXES), (self._source, SOURCE_SUFFIXES)
        for place in path or ():
            if spec := FileFinder(place, *loaders).find_spec(name):
                return spec if spec.loader else _bare_package(name, Path(place, name.rpartition(".")[2]))
        return None

    def _source(self, name: str, path: str) -> SourceFileLoader:
        return _FromSource(name, path, self)

    def _extension(self, name: str, path: str) -> ExtensionFileLoader:
        self.read(Path(path))
        return ExtensionFileLoader(name, path)

    def _open_package(self) -> None:
        """Make the package itself; run the folder's `__init__.py` if a file imports relatively, as Python would."""
        init = self.folder / "__init__.py"
        spec = _bare_package(self._package, self.folder)
        if init in self._sources:
            spec.loader, spec.origin, spec.has_location = self._source(self._package, str(init)), str(init), True
        module = sys.modules[self._package] = importlib.util.module_from_spec(spec)
        if spec.loader:
            spec.loader.exec_module(module)

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """`__import__` of the folder's files."""
        root = name.partition(".")[0]
        full = name if level else self._full_name(name)
        found = builtins.__import__(full, globals, locals, fromlist or (), level)
        if found is importlib:
            return self._importlib()
        return found if fromlist or full == name else sys.modules[f"{self._package}.{root}"]

    def _importlib(self) -> ModuleType:
        """`importlib`, whose `import_module` finds the folder's files too."""

        def import_module(name: str, package: str | None = None) -> ModuleType:
            return importlib.import_module(name if name.startswith(".") else self._full_name(name), package)

        seen = ModuleType(importlib.__name__, importlib.__doc__)
        vars(seen).update(import_module=import_module, __getattr__=lambda name: getattr(importlib, name))
        return seen

    def _full_name(self, name: str) -> str:
        """Return the module that an absolute import in the folder means."""
        root = name.partition(".")[0]
        if self._is_beside(root):
            return f"{self._package}.{name}"
        if root == OURS:
            raise ImportError(name_taken(name), name=name)
        return name

    def _is_beside(self, root: str) -> bool:
        """Return whether an absolute import of the name means the folder's file."""
        if root not in self._beside:
            found = self.find(f"{self._package}.{root}", [str(self.folder)])
            self._beside[root] = found is not None and not self._is_passed_over(root)
        return self._beside[root]

    def _is_passed_over(self, root: str) -> bool:
        if not is_installed(root, self.folder):
            return False
        if root != self._entry.partition(".")[0]:
            words = f"an installed module is called {root}, too; rename the file, or write `from . import {root}`"
            log.warning("file passed over", file=f"{self.folder.name}/{root}.py", why=words)
        return True

    # Sources that may be imported later

    def _read_reached(self) -> None:
        """Read every source that the entry's imports lead to, those inside functions included."""
        entry = (*self._entry.split("."),)
        waiting = [entry[:length] for length in range(1, len(entry) + 1)]
        seen: set[tuple[str, ...]] = set()
        while waiting:
            module = waiting.pop()
            if module in seen:
                continue
            seen.add(module)
            if path := source_of(self.folder, module):
                waiting += self._imports_of(path, module if path.name == "__init__.py" else module[:-1])

    def _imports_of(self, path: Path, package: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Modules of the folder that a source may import, with the packages around them."""
        try:
            found = list(imported_names(self.read(path), package))
        except (SyntaxError, ValueError, RecursionError):  # reported when it is imported, if it ever is
            return []
        ours = [parts for relative, parts in found if relative or self._is_beside(parts[0])]
        around = [parts[:length] for parts in ours for length in range(1, len(parts))]
        return [*ours, *around, *([()] if any(relative for relative, _ in found) else [])]


class _FromSource(SourceFileLoader):
    """Runs the text that is there now: a `.pyc` passes for current when the text changes within a second and
    keeps its length, and then the version would name code that did not run."""

    def __init__(self, name: str, path: str, code: ModelCode) -> None:
        super().__init__(name, path)
        self._code = code

    def get_data(self, path: str) -> bytes:
        return self._code.read(Path(path))

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self._code.builtins
        super().exec_module(module)


class _NothingToRun(SourceFileLoader):
    """Loads a folder without an `__init__.py`; resources are found in it as in any package."""

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing: there is no code in it."""


def _bare_package(name: str, folder: Path) -> ModuleSpec:
    spec = ModuleSpec(name, _NothingToRun(name, str(folder / "__init__.py")), is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return spec


class _Folders(MetaPathFinder):
    """Finds the modules of every model's package."""

    def __init__(self) -> None:
        self.living: dict[str, ModelCode] = {}

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        code = self.living.get(name.partition(".")[0])
        return code.find(name, path) if code else None


_folders = _Folders()
sys.meta_path.insert(0, _folders)


def digest_of(path: Path) -> bytes:
    """Return the SHA-256 of a file, which is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
