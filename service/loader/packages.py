"""The cache's folder of compiled packages: each runs as native code, so it matters whose it is and that it is whole.

A verdict is a file named by the artefact key; the package that it names, if any, lies beside it under a name that holds
its own hash, so that of two servers that write at once neither spoils what the other has written.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from service.loader.artefact import read_struct, write_struct, write_whole
from service.loader.card import Card
from service.loader.verdict import Verdict

#: Packages kept, the most recently used: more than a server serves at once.
MOST_PACKAGES = 64
#: A package is not tried again after this many processes have ended during its first forwards.
MOST_DEATHS = 2


class RefusedPackageError(Exception):
    """A package is not what its verdict says, or not ours; the message says how."""


def ruled_out(card: Card) -> Verdict | None:
    """Return the verdict on a model that no package may answer for on any machine; None if one may."""
    if card.optimize == "eager":
        return Verdict("off", "optimize = eager on its card")
    if "repeatable" in card.proof.waive:
        return Verdict("off", "its card waives repeatable, and a package is known by the bits of its answers")
    return None


class Packages:
    """Verdicts and packages under `folder`/compiled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "compiled"

    def read(self, key: str) -> Verdict | None:
        """Return the verdict under a key; None if compiling has not been tried yet."""
        return read_struct(self._folder / f"{key}.json", Verdict)

    def open(self, verdict: Verdict) -> Path:
        """Return the file of a verdict's package, after checking its owner and its hash.

        Raises:
            RefusedPackageError: another user may have written it, or its bytes are not those that were measured.
        """
        if Path(verdict.package).name != verdict.package:
            raise RefusedPackageError(f"{verdict.package!r} is not a file name")
        file = self._folder / verdict.package
        for path in (self._folder, file):
            if why := not_ours(path):
                raise RefusedPackageError(why)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest != verdict.sha256:
            raise RefusedPackageError(f"{file} hashes to {digest[:12]}, not to {verdict.sha256[:12]}")
        with contextlib.suppress(OSError):
            os.utime(file)  # it is in use; the folder may be read-only
        return file

    @contextlib.contextmanager
    def trying(self, key: str) -> Iterator[None]:
        """Guard the first forwards of a package, which is native code and may end the process.

        Raises:
            RefusedPackageError: two processes have ended in here.
        """
        file = self._folder / f"{key}.trying"
        died = [pid for pid in _lines(file) if not Path("/proc", pid).exists()]
        if len(died) >= MOST_DEATHS:
            file.unlink(missing_ok=True)
            raise RefusedPackageError(f"{len(died)} processes ended while they tried {key}")
        with contextlib.suppress(OSError), file.open("a", encoding="ascii") as out:  # the folder may be read-only
            out.write(f"{os.getpid()}\n")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)

    def forget(self, key: str, verdict: Verdict) -> None:
        """Take a verdict and its package away, so that they are made again; not one that was made meanwhile."""
        with contextlib.suppress(OSError):
            if self.read(key) == verdict:
                (self._folder / f"{key}.json").unlink(missing_ok=True)
                (self._folder / verdict.package).unlink(missing_ok=True)

    def condemn(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict that says no, where one can be kept."""
        with contextlib.suppress(OSError):
            self.write(key, verdict)

    def writable(self) -> str:
        """Say why nothing can be kept here; empty if it can. The folder is made if it is missing."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            return f"{self._folder} cannot be made: {error.strerror}"
        if why := not_ours(self._folder):
            return why
        return "" if os.access(self._folder, os.W_OK) else f"{self._folder} cannot be written"

    def write(self, key: str, verdict: Verdict, package: Path | None = None) -> Verdict:
        """Keep a verdict, and the package that won; returns it with the package's name and hash.

        Raises:
            OSError: it cannot be written.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it may have been removed during the build
        if package:
            content = package.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            verdict = msgspec.structs.replace(verdict, package=f"{key}-{digest[:12]}{package.suffix}", sha256=digest)
            write_whole(self._folder / verdict.package, content)
        write_struct(self._folder / f"{key}.json", verdict)
        for older in self._packages(key):
            if older.name != verdict.package:
                older.unlink(missing_ok=True)
        self._prune(verdict.package)
        return verdict

    def _packages(self, key: str = "*") -> list[Path]:
        """Return the packages of a key, of any compiler, or those of all keys."""
        return [file for file in self._folder.glob(f"{key}-*") if file.suffix != ".partial"]

    def _prune(self, kept: str) -> None:
        """Drop the packages that were used the longest ago, with their verdicts, and what a killed process left."""
        files = sorted(self._packages(), key=_used, reverse=True)
        others = [file for file in files if file.name != kept]
        for file in others[MOST_PACKAGES - 1 :]:
            file.unlink(missing_ok=True)
            (self._folder / f"{file.name.partition('-')[0]}.json").unlink(missing_ok=True)
        for partial in self._folder.glob("*.partial"):
            if not Path("/proc", partial.suffixes[-2][1:]).exists():
                partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Hold the lock of a build: another process waits, and may then find the verdict."""
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def _lines(file: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return file.read_text("ascii").split()
    return []


def _used(file: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_mtime
    return 0.0


def not_ours(path: Path) -> str:
    """Say why code from here must not be run: a user other than this one or root owns it, or may write to it."""
    try:
        found = path.stat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    if found.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to user {found.st_uid}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    return ""
