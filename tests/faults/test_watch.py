"""Row C11 of the fault matrix: model folders behind links, half readable, or gone for a moment, with `--watch`."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import httpx
import pytest

from tests.support.hurried import WATCHFUL
from tests.support.models import TRIVIAL, TRIVIAL_CODE, direct
from tests.support.server import Server, wait_for

#: Root reads every folder with these; without them it is refused as anybody is.
NO_OVERRIDE = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


def write(folder: Path, seed: int) -> None:
    """Make a folder a trivial model's; each seed gives another version."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "architecture.py").write_text(TRIVIAL_CODE)
    rewrite(folder, seed)


def rewrite(folder: Path, seed: int) -> None:
    fresh = folder / "fresh.tmp"
    fresh.write_text(TRIVIAL.replace("random:1", f"random:{seed}"))
    fresh.replace(folder / "model.toml")


def link(name: Path, target: str | Path) -> None:
    """Have a link lead to the target, at once, as git-sync does."""
    fresh = name.with_name("fresh.tmp")
    fresh.symlink_to(target)
    fresh.replace(name)


class Watched:
    """A server that watches a link to a tree of models: a folder, a link, a config map, and one that is unreadable."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = root / "models"
        self.expected = 0.0
        self._seeds = count(1)
        self._trees = count(1)
        write(root / "own" / "1", self.seed())
        for number in (1, 2, 3):
            write(root / "map" / f"..{number}", self.seed())
        (root / "map" / "..data").symlink_to("..1")
        for name in ("model.toml", "architecture.py"):
            (root / "map" / name).symlink_to(f"..data/{name}")
        self.swap()
        self.server = Server(self.models, "--watch", "--default-model", "one", launcher=NO_OVERRIDE, command=WATCHFUL)

    def seed(self) -> int:
        """One that no version has had."""
        return next(self._seeds)

    def tree(self) -> Path:
        return self.models.resolve()

    def swap(self) -> None:
        """Have the models' link lead to a new tree, and remove the old one."""
        old, tree = self.tree(), Path(".git") / "worktrees" / str(next(self._trees))
        write(self.root / tree / "one", self.seed())
        (self.root / tree / "own").symlink_to(self.root / "own" / "1")
        (self.root / tree / "map").symlink_to(self.root / "map")
        (self.root / tree / "lost+found").mkdir(mode=0)
        link(self.models, tree)
        if old != self.models:
            shutil.rmtree(old)

    def reloads(self, **labels: str) -> float:
        return self.server.metric("gradless_reloads_total", **labels)

    def wait_for_a_reload(self) -> None:
        """Hold that there is one more, and that there were no others before."""
        self.expected += 1
        wait_for(lambda: self.reloads() >= self.expected, 30, "a reload")
        assert self.reloads() == self.expected

    def version(self, name: str) -> str:
        return httpx.get(f"{self.server.url}/models/{name}").json()["version"]

    def assert_taken_up(self, name: str, change: Callable[[], None]) -> None:
        """Hold that a change of a model is served, and that it made one reload."""
        change()
        version = direct(self.models, name).version
        wait_for(lambda: self.version(name) == version, 30, "the new version")
        self.wait_for_a_reload()


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Watched]:
    watched = Watched(tmp_path_factory.mktemp("watched"))
    with watched.server:
        watched.server.started()
        yield watched


@pytest.fixture
def watched(running) -> Watched:
    running.expected = running.reloads()
    return running


def test_c11_an_unreadable_folder_among_the_models_asks_for_no_reload_and_hides_no_change(watched):
    threading.Event().wait(2)  # ten looks: users saw a reload every six seconds
    assert watched.reloads() == watched.expected
    watched.assert_taken_up("one", lambda: rewrite(watched.tree() / "one", watched.seed()))
    assert sum("lost+found" in line for line in watched.server.log) == 1
    (watched.tree() / "lost+found").chmod(0o700)
    watched.wait_for_a_reload()  # for what can be read now


def test_c11_each_swap_of_the_models_link_is_taken_up_and_so_is_an_edit_after_it(watched):
    for _ in range(2):
        watched.assert_taken_up("one", watched.swap)
    watched.assert_taken_up("one", lambda: rewrite(watched.tree() / "one", watched.seed()))


def test_c11_each_swap_of_a_models_own_link_is_taken_up_and_so_is_an_edit_after_it(watched):
    for number in (2, 3):
        folder = watched.root / "own" / str(number)
        write(folder, watched.seed())
        watched.assert_taken_up("own", lambda folder=folder: link(watched.tree() / "own", folder))
    watched.assert_taken_up("own", lambda: rewrite(folder, watched.seed()))


def test_c11_each_swap_of_a_config_map_is_taken_up(watched):
    for number in (2, 3):
        watched.assert_taken_up("map", lambda number=number: link(watched.root / "map" / "..data", f"..{number}"))


def test_c11_models_that_are_gone_for_a_while_are_served_on_and_taken_up_when_they_are_back(watched):
    away = watched.root / "away"
    failed, version = watched.reloads(result="failed"), watched.version("one")
    watched.models.rename(away)
    watched.wait_for_a_reload()
    assert watched.reloads(result="failed") == failed + 1
    assert watched.version("one") == version
    rewrite(away / "one", watched.seed())
    watched.assert_taken_up("one", lambda: away.rename(watched.models))


def test_c11_a_change_between_the_first_read_of_the_cards_and_the_start_of_the_engines_is_taken_up(tmp_path):
    write(tmp_path / "one", 1)
    with Server(tmp_path, "--watch") as server:
        wait_for(lambda: server.pids("gradless: supervisor"), 60, "cards that have been read")
        rewrite(tmp_path / "one", 2)
        version = direct(tmp_path, "one").version
        server.started()
        wait_for(lambda: httpx.get(f"{server.url}/models/one").json()["version"] == version, 30, "the new version")
