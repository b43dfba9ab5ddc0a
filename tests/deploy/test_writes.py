"""Where a server writes: what a container with a read-only file system has to give it."""

from __future__ import annotations

import contextlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.support.server import Server, wait_for
from tests.support.tiny import CODE, tiny_at


def is_file_of_a_folder(path: Path) -> bool:
    """Not a device, a pipe, a socket or memory, which has no path; /dev/shm holds files."""
    if str(path).startswith("/memfd:"):
        return False
    return path.is_absolute() and (not path.is_relative_to("/dev") or path.is_relative_to("/dev/shm"))


def open_for_writing(server: Server) -> set[Path]:
    """Files that a process of the server may write to, or has mapped so that what it writes is the file's."""
    found = set()
    for process in server.tree():
        root = Path("/proc", str(process.pid))
        with contextlib.suppress(OSError):  # it ended meanwhile
            for line in (root / "maps").read_text().splitlines():
                _, mode, _, _, _, *path = line.split(maxsplit=5)
                found |= {Path(*path)} if mode.endswith("s") and "w" in mode else set()
        for descriptor in root.glob("fd/*"):
            with contextlib.suppress(OSError):  # it was closed meanwhile
                flags = re.search(r"^flags:\s+(\d+)", (root / "fdinfo" / descriptor.name).read_text(), re.MULTILINE)
                found |= {descriptor.readlink()} if int(flags[1], 8) & (os.O_WRONLY | os.O_RDWR) else set()
    return {path for path in found if is_file_of_a_folder(path)}


#: What a model may do: it keeps a file of its engine's TMPDIR open.
KEEPS_OPEN = f"""\
import pathlib
import sys
import tempfile

sys.kept_open = pathlib.Path(tempfile.gettempdir(), "kept-open").open("w")
{CODE}"""


def written_by_a_server(folder: Path, **variables: str) -> tuple[set[Path], set[Path]]:
    """What a server of a tiny model writes in a life with a request and a reload: under its TMPDIR, and elsewhere.

    Its home and its working directory are below the folder.
    """
    models = tiny_at(folder / "models", code=KEEPS_OPEN).parent
    environment = {"HOME": str(folder / "home"), "PYTHONDONTWRITEBYTECODE": "1"} | variables
    surroundings = {"launcher": ("env", "-u", "XDG_CACHE_HOME"), "environment": environment, "folder": folder / "here"}
    before = set(folder.rglob("*"))
    with Server(models, "--optimize", "auto", **surroundings) as server:
        server.started().wait_ready()
        picture = {"instances": [[[[1, 2, 3]] * 8] * 8]}
        assert httpx.post(f"{server.url}/predict", json=picture, timeout=30).status_code == 200
        found = open_for_writing(server)
        httpx.post(f"{server.url}/models/reload")
        for engines in (2, 1):
            wait_for(lambda: len(server.pids("gradless: engine")) == engines, 60, f"{engines} engines")  # noqa: B023
            found |= open_for_writing(server)
        temporary = Path(server.temporary.name)
        assert server.stop() == 0
    inside = {file for file in found if file.is_relative_to(temporary)}
    return inside, found - inside | set(folder.rglob("*")) - before


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, tuple[set[Path], set[Path]]]:
    """What two servers write, which run at the same time: one as in the image, and one that is led elsewhere."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("image", "elsewhere")}
    for folder in folders.values():
        for name in ("home", "here"):
            (folder / name).mkdir()
    led = {"GRADLESS_CACHE": str(folders["elsewhere"] / "cache"), "TMPDIR": str(folders["elsewhere"] / "here")}
    variables = {"image": {"GRADLESS_CACHE": "/dev/null/cache"}, "elsewhere": led}  # a cache that cannot be written
    with ThreadPoolExecutor() as pool:
        running = {name: pool.submit(written_by_a_server, folders[name], **variables[name]) for name in folders}
        return {name: future.result() for name, future in running.items()}


def test_a_server_writes_under_tmpdir_only_and_serves_with_a_cache_that_it_cannot_write(written):
    inside, elsewhere = written["image"]
    assert "kept-open" in {file.name for file in inside}
    assert elsewhere == set()


def test_what_is_written_elsewhere_is_noticed(written):
    inside, elsewhere = written["elsewhere"]
    assert inside == set()
    assert {"kept-open", "cache"} <= {part for file in elsewhere for part in file.parts}
