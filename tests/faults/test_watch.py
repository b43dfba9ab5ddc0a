"""Row C11 of the fault matrix: model folders behind links, half readable, or gone for a moment, with `--watch`."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import httpx

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


def reloads(server: Server) -> float:
    return server.metric("gradless_reloads_total")


def assert_taken_up(server: Server, models: Path, number: int, change: Callable[[], None]) -> None:
    """Hold that a change is served, and that all up to this one made this number of reloads."""
    change()
    version = direct(models, "one").version
    wait_for(lambda: httpx.get(f"{server.url}/models/one").json()["version"] == version, 30, "the new version")
    wait_for(lambda: reloads(server) == number, 10, f"{number} reloads")


def test_c11_an_unreadable_folder_among_the_models_asks_for_no_reload_and_hides_no_change(serve, tmp_path):
    write(tmp_path / "one", 1)
    (tmp_path / "lost+found").mkdir(mode=0)
    server = serve(tmp_path, "--watch", launcher=NO_OVERRIDE)
    threading.Event().wait(10)  # users saw a reload every six seconds
    assert reloads(server) == 0
    assert_taken_up(server, tmp_path, 1, lambda: rewrite(tmp_path / "one", 2))
    assert sum("lost+found" in line for line in server.log) == 1
    (tmp_path / "lost+found").chmod(0o700)
    wait_for(lambda: reloads(server) == 2, 30, "a reload for what can be read now")


def test_c11_each_swap_of_the_models_link_is_taken_up_and_so_is_an_edit_after_it(serve, tmp_path):
    trees, models = tmp_path / ".git" / "worktrees", tmp_path / "models"
    write(trees / "1" / "one", 1)
    models.symlink_to(".git/worktrees/1")
    server = serve(models, "--watch")

    def swap(number: int) -> None:
        write(trees / str(number) / "one", number)
        link(models, f".git/worktrees/{number}")
        shutil.rmtree(trees / str(number - 1))

    for number in (2, 3):
        assert_taken_up(server, models, number - 1, lambda number=number: swap(number))
    assert_taken_up(server, models, 3, lambda: rewrite(trees / "3" / "one", 4))


def test_c11_each_swap_of_a_models_own_link_is_taken_up_and_so_is_an_edit_after_it(serve, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    for number in (1, 2, 3):
        write(tmp_path / str(number), number)
    (models / "one").symlink_to("../1")
    server = serve(models, "--watch")
    for number in (2, 3):
        assert_taken_up(server, models, number - 1, lambda number=number: link(models / "one", f"../{number}"))
    assert_taken_up(server, models, 3, lambda: rewrite(tmp_path / "3", 4))


def test_c11_each_swap_of_a_config_map_is_taken_up(serve, tmp_path):
    volume = tmp_path / "one"
    for number in (1, 2, 3):
        write(volume / f"..{number}", number)
    (volume / "..data").symlink_to("..1")
    for name in ("model.toml", "architecture.py"):
        (volume / name).symlink_to(f"..data/{name}")
    server = serve(tmp_path, "--watch")
    for number in (2, 3):
        assert_taken_up(server, tmp_path, number - 1, lambda number=number: link(volume / "..data", f"..{number}"))


def test_c11_models_that_are_gone_for_a_while_are_served_on_and_taken_up_when_they_are_back(serve, tmp_path):
    models, away = tmp_path / "models", tmp_path / "away"
    write(models / "one", 1)
    server = serve(models, "--watch")
    version = direct(models, "one").version
    models.rename(away)
    wait_for(lambda: server.metric("gradless_reloads_total", result="failed") == 1, 30, "a reload that fails")
    assert httpx.get(f"{server.url}/models/one").json()["version"] == version
    rewrite(away / "one", 2)
    assert_taken_up(server, models, 2, lambda: away.rename(models))


def test_c11_a_change_between_the_first_read_of_the_cards_and_the_start_of_the_engines_is_taken_up(tmp_path):
    write(tmp_path / "one", 1)
    with Server(tmp_path, "--watch") as server:
        wait_for(lambda: server.pids("gradless: supervisor"), 60, "cards that have been read")
        rewrite(tmp_path / "one", 2)
        version = direct(tmp_path, "one").version
        server.started()
        wait_for(lambda: httpx.get(f"{server.url}/models/one").json()["version"] == version, 30, "the new version")
