"""A name, a home and a cache for a user that the system may know nothing of.

OpenShift and `docker run --user 12345` start a server as a user that no passwd entry names, with HOME unset, at `/` or
at a folder that is not there. Libraries ask for both: torch for a name, the caches of all for a home.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import tempfile
from pathlib import Path

from service.host.run_folder import is_own_folder

#: A path below a file, where nothing can be stored.
_NOWHERE = Path(os.devnull, "gradless")
#: Variables that `getpass.getuser` reads before it asks for the passwd entry.
_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")


def ensure_name_and_home() -> None:
    """Give this process, and every child, a user name and a home, where neither environment nor passwd does."""
    with contextlib.suppress(KeyError):
        pwd.getpwuid(os.getuid())
        return
    if not any(os.environ.get(name) for name in _NAMES):
        os.environ["LOGNAME"] = str(os.getuid())
    if "HOME" not in os.environ and (home := own_folder()):
        os.environ["HOME"] = str(home)


def own_folder() -> Path | None:
    """Return a folder under TMPDIR that only this user can access, and make it if needed; None if that is impossible.

    Other users can write to TMPDIR, and code in a cache is executed.
    """
    try:
        folder = _stand_in()
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        return folder if is_own_folder(folder, 0o077) else None
    except OSError:
        return None


def _stand_in() -> Path:
    return Path(tempfile.gettempdir(), f"gradless-user-{os.geteuid()}")


def stand_ins(**folders: str) -> dict[str, str]:
    """Return those of the folders, by name, that are in the temporary folder in place of a home."""
    with contextlib.suppress(FileNotFoundError):
        return {name: each for name, each in folders.items() if Path(each, "here").is_relative_to(_stand_in())}
    return {}


def cache_home() -> Path:
    """Return the folder of all caches, `~` not yet expanded.

    A relative XDG_CACHE_HOME is ignored (XDG Base Directory Specification, 0.8).
    """
    stated = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return stated if stated.is_absolute() else Path("~/.cache")


def usable_cache(default: Path) -> Path:
    """Return the default cache; where it cannot be made or read, one in `own_folder`, or one that keeps nothing."""
    folder = Path(os.path.expanduser(default))  # noqa: PTH111 - without a home it leaves the ~, where pathlib raises
    if _can_be_used(folder):
        return folder
    if own := own_folder():
        return own / "cache"
    return folder if folder.is_absolute() else _NOWHERE


def _can_be_used(folder: Path) -> bool:
    """Return whether the folder is there and can be read, or is not and can be made."""
    if not folder.is_absolute():
        return False
    nearest = next(each for each in (folder, *folder.parents) if os.path.exists(each))  # noqa: PTH110 - it never raises
    wanted = os.R_OK | os.X_OK if nearest == folder else os.W_OK | os.X_OK
    return nearest.is_dir() and os.access(nearest, wanted)
