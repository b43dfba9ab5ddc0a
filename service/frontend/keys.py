"""Bearer keys of those that may ask, from a file that is read again when it changes."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from pathlib import Path

import structlog

from service.errors import ConfigurationError, Unauthorized
from service.host.text import read_text, split_lines

log = structlog.get_logger()

#: The file is looked at no more often.
LOOK_SECONDS = 1.0
#: What an `Authorization` header can carry (RFC 6750, 2.1).
_KEY = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
_FIX = "write one key a line (letters, digits and -._~+/, then any =); # begins a comment"

#: Inode, time of the last change (of the permissions too) in nanoseconds, and size; None without a file.
Stamp = tuple[int, int, int] | None
_NEVER: Stamp = (0, 0, 0)


class Keys:
    """The keys of a file, as hashes; none of them is ever logged.

    A file that has gone bad while it is in use leaves the keys as they were. One that is bad when a front end
    starts, which is after the whole server has started well, lets nobody in until it is right again.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._hashes: list[bytes] = []
        self._stamp = _NEVER
        self._looked = 0.0

    def check(self, headers: Mapping[str, str]) -> None:
        """Let a request pass that carries one of the keys.

        Raises:
            Unauthorized: it carries none, or another.
        """
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look()
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("Send one of the server's keys in the header Authorization: Bearer KEY.")
        if not self._is_known(key.strip()):
            raise Unauthorized("The key is none of the server's.")

    def _is_known(self, key: str) -> bool:
        """Compared with every key, each time to the end: the time it takes tells nothing."""
        stated = _hash(key)
        return sum([hmac.compare_digest(stated, known) for known in self._hashes]) > 0

    def _look(self) -> None:
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._hashes = read_keys(self._file)
        except ConfigurationError as error:
            log.error("keys not read", problem=str(error), keys_in_use=len(self._hashes))
        else:
            log.info("keys read", keys=len(self._hashes))


def read_keys(file: Path) -> list[bytes]:
    """The hash of each key of a file.

    Raises:
        ConfigurationError: it cannot be read, holds no key, or a line that cannot be one.
    """
    try:
        lines = split_lines(read_text(file, "keys_file"))
    except OSError as error:
        raise ConfigurationError.at(file, "keys_file", f"cannot be read: {error.strerror}", _FIX) from error
    keys = {number: line.partition("#")[0].strip() for number, line in enumerate(lines, 1)}
    if wrong := [number for number, key in keys.items() if key and not _KEY.fullmatch(key)]:
        raise ConfigurationError.at(file, "keys_file", f"line {wrong[0]} holds no key", _FIX)
    hashes = [_hash(key) for key in keys.values() if key]
    if not hashes:
        raise ConfigurationError.at(file, "keys_file", "holds no key", _FIX)
    return hashes


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _stamp(file: Path) -> Stamp:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns, found.st_size
