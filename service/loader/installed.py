"""An installed module that makes a model: it is imported as any module is, and the version says which one it was."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import sys
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

from service.loader.code import digest_of


class InstalledCode:
    """The module that a card names where its folder has no such file.

    Args:
        folder: the model's.
        source: the module's name, with its packages.
        covered: files of the folder that a version covers by what was made of them.
    """

    def __init__(self, folder: Path, source: str, covered: Collection[Path] = ()) -> None:
        self.source = source
        self._folder = folder
        self._covered = covered

    def run(self) -> ModuleType:
        """Import it, unless something else has.

        Raises:
            Exception: whatever the module raises.
        """
        return importlib.import_module(self.source)

    def forget(self) -> None:
        """Do nothing: other code may use an installed module."""

    def name_version(self, opened: Collection[Path]) -> list[bytes]:
        """Return the module's source, its distribution by name and version, and the folder's files that were opened.

        Of a module that no distribution holds, such as one on PYTHONPATH or installed to be edited, all sources of its
        package stand in. What it imports of other distributions is in no version.
        """
        file = Path(sys.modules[self.source].__file__ or "")
        source = file.read_bytes() if file.is_file() else b""
        read = sorted(path for path in opened if path not in self._covered and path.is_file())
        names = (f"{path.relative_to(self._folder).as_posix()}\n".encode() for path in read)
        data = [name + digest_of(path) for name, path in zip(names, read, strict=True)]
        return [source, _distribution_of(file) or _package_digest(self.source), *data]


def _distribution_of(file: Path) -> bytes:
    """Return the name and version of the distribution that has the file; empty if none does."""
    for found in importlib.metadata.distributions():
        place = Path(str(found.locate_file("")))
        if file.is_relative_to(place):
            # All records are searched as text: taken apart, those of a large environment take half a second.
            listed = "\n" + (found.read_text("RECORD") or "")
            if f"\n{file.relative_to(place).as_posix()}," in listed:
                return f"{found.metadata['Name']} {found.version}".encode()
    return b""


def _package_digest(module: str) -> bytes:
    """SHA-256 over the names and contents of all sources of a module's outermost package."""
    root = sys.modules[module.partition(".")[0]]
    digest = hashlib.sha256()
    for place in getattr(root, "__path__", ()):
        for path in sorted(Path(place).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(place).as_posix()} {len(content)}\n".encode() + content)
    return digest.digest()
