"""A user that the system knows nothing of: a name, a home and a cache all the same."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from service.host import home
from service.host.home import cache_home, ensure_name_and_home, own_folder, stand_ins, usable_cache


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """TMPDIR, in a user's environment without name, home and cache."""
    (tmp_path / "tmp").mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


@pytest.fixture
def nobody(monkeypatch):
    def getpwuid(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", getpwuid)


def mine() -> str:
    return f"gradless-user-{os.geteuid()}"


def test_a_user_without_an_entry_gets_its_number_as_name_and_a_folder_of_its_own_as_home(nobody, temporary):
    ensure_name_and_home()
    assert getpass.getuser() == str(os.getuid())
    assert Path.home() == temporary / mine()
    assert (temporary / mine()).stat().st_mode & 0o777 == 0o700


def test_a_name_and_a_home_that_are_given_stay(nobody, monkeypatch):
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setenv("HOME", "/")
    ensure_name_and_home()
    assert (getpass.getuser(), os.environ["HOME"]) == ("ada", "/")


def test_a_user_with_an_entry_is_left_alone(temporary):
    ensure_name_and_home()
    assert not {"HOME", "LOGNAME"} & set(os.environ)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("what", ["a link", "a file", "open to others", "of another user"])
def test_a_folder_that_another_user_may_have_made_is_not_taken(temporary, monkeypatch, what):
    folder = temporary / mine()
    if what == "a link":
        (temporary / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to("elsewhere")
    elif what == "a file":
        folder.touch(mode=0o700)
    else:
        folder.mkdir(mode=0o700)
        folder.chmod(0o770 if what == "open to others" else 0o700)
    if what == "of another user":
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        folder.rename(temporary / mine())
    assert own_folder() is None


@pytest.mark.parametrize("stated", [None, "", "relative/cache", "~/cache"])
def test_a_cache_home_that_is_not_absolute_is_ignored(monkeypatch, stated):
    if stated is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", stated)
    assert cache_home() == Path("~/.cache")


def test_a_cache_home_that_is_absolute_is_taken(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_home() == Path("/var/cache")


def test_a_cache_that_can_be_made_or_read_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert usable_cache(Path("~/.cache/gradless")) == tmp_path / "home" / ".cache" / "gradless"
    assert list(tmp_path.iterdir()) == [tmp_path / "tmp"]  # it is made by those who keep something


@pytest.mark.parametrize("place", ["below a file", "a file", "without a home", "where it may not write"])
def test_a_cache_that_cannot_be_is_in_the_temporary_folder(monkeypatch, nobody, temporary, tmp_path, place):
    (tmp_path / "file").touch()
    wanted = {"below a file": tmp_path / "file" / "gradless", "a file": tmp_path / "file"}
    if place == "where it may not write":  # root may; here it is as the kernel would tell another user
        monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    found = usable_cache(wanted.get(place, Path("~/.cache/gradless")))
    assert found == temporary / mine() / "cache"
    assert stand_ins(home="/", cache=str(found)) == {"cache": str(found)}


def test_a_cache_that_is_there_and_read_only_stays(monkeypatch, tmp_path):
    (tmp_path / "gradless").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert usable_cache(tmp_path / "gradless") == tmp_path / "gradless"


def test_where_nothing_can_be_written_nothing_is_kept(monkeypatch, nobody):
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null")
    assert usable_cache(Path("~/.cache/gradless")) == home._NOWHERE
    assert usable_cache(Path("/dev/null/there")) == Path("/dev/null/there")


def test_the_command_line_gives_name_and_home_to_what_it_starts(temporary):
    code = (
        "import pwd, sys, os, getpass, pathlib\n"
        "def unknown(uid): raise KeyError(uid)\n"
        "pwd.getpwuid = unknown\n"
        "import service.cli\n"
        "service.cli.app = lambda: print(getpass.getuser(), pathlib.Path.home())\n"
        "service.cli.main()\n"
    )
    surroundings = {"PATH": os.environ["PATH"], "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings, cwd=Path(__file__).parents[3])
    assert done.stdout == f"{os.getuid()} {temporary / mine()}\n", done.stderr
