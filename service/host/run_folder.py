"""The folder of one run of the server, under TMPDIR: sockets, and what children unpack.

Cleaners of temporary files may remove it while the server runs, so it is made again before each use.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path

from service.errors import ConfigurationError

#: Room that a start asks for. A full disk is better reported then than by an engine that cannot be started.
PROBE_BYTES = 65_536


def make_run_folder() -> Path:
    """Make a new run folder.

    Raises:
        ConfigurationError: TMPDIR cannot be used.
    """
    wanted = os.environ.get("TMPDIR")  # tempfile alone would go elsewhere when it cannot be used
    try:
        folder = Path(tempfile.mkdtemp(prefix="gradless-", dir=wanted or None)).absolute()
    except OSError as error:
        raise _unusable(wanted or "the default", error) from error
    try:
        _probe(folder)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _unusable(str(folder.parent), error) from error
    return folder


def _probe(folder: Path) -> None:
    """Try the folder: write some bytes, and bind a socket with the longest name in use."""
    file, address = folder / "probe", folder / "listener-12345678"
    file.write_bytes(bytes(PROBE_BYTES))
    file.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
    address.unlink()


def _unusable(folder: str, error: OSError) -> ConfigurationError:
    words = f"{folder} cannot hold temporary files: {error.strerror or error}"
    return ConfigurationError.at(
        "environment", "TMPDIR", words, "name a folder with a short path, write access and room"
    )


def make_again(run_folder: Path, name: str = "") -> Path:
    """Make the folder of a run, and a folder in it, where they are not there any more; returns the inner one.

    Raises:
        OSError: they cannot be made, or another user has made them.
    """
    run_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_own(run_folder)
    folder = run_folder / name
    folder.mkdir(exist_ok=True)
    return folder


def check_own(run_folder: Path) -> None:
    """Refuse a folder that another user has made under the name of a removed one: sockets there may be that user's.

    Raises:
        OSError: it is not there, or others than this user may write to it.
    """
    if not is_own_folder(run_folder, 0o022):
        raise PermissionError(f"{run_folder} is not a folder that this user alone may write to")


def is_own_folder(folder: Path, forbidden: int) -> bool:
    """Return whether a path is a folder (not a link) of this user, without any of the forbidden mode bits.

    Raises:
        OSError: it is not there.
    """
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & forbidden
