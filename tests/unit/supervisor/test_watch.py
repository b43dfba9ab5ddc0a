"""What a look at real files and links sees, when changes have settled, and that a look may hang."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from service.supervisor import watch as watching
from service.supervisor.watch import MOST_COPYING_SECONDS, SETTLED_SECONDS, Settling, Snapshot, take_snapshot, watch


def put(file: Path, text: str = "text") -> None:
    """Write a file, its folders too; the mtime is always the same, so that it tells nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (1, 1))


def link(name: Path, target: str | Path) -> None:
    """Have a link lead to the target, at once, as `ln -sfn` does not and git-sync does."""
    fresh = name.with_name("fresh.tmp")
    fresh.symlink_to(target)
    fresh.replace(name)


def differences(before: Snapshot, after: Snapshot) -> set[str]:
    return {name for name, _ in before.files.items() ^ after.files.items()}


@pytest.fixture
def models(tmp_path):
    """The models folder is a link to a work tree of git, whose path holds names that do not count below it."""
    put(tmp_path / ".git" / "one.tmp" / "one" / "model.toml")
    put(tmp_path / ".git" / "one.tmp" / "one" / "weights.pth")
    link(tmp_path / "models", ".git/one.tmp")
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("one/model.toml", True),
        ("one/weights.safetensors", True),
        ("two.tmp/model.toml", True),
        ("one/deep/er/labels.txt", True),
        ("one/__pycache__/architecture.cpython-311.pyc", False),
        ("one/.model.toml.swp", False),
        ("one/model.toml~", False),
        ("one/model.tmp", False),
        ("one/architecture.pyc", False),
        (".git/index", False),
        ("one/.git/objects/ab", False),
        ("one/.git", False),
        (".ipynb_checkpoints/one/model.toml", False),
        ("one/.cache/weights.pth", False),
        ("..2024/model.toml", False),
        ("one/.labels.txt", True),
    ],
)
def test_what_python_git_and_editors_write_is_no_change_of_a_model(models, path, counts):
    before = take_snapshot(models)
    put(models / path)
    assert (path in differences(before, take_snapshot(models))) == counts
    assert counts or take_snapshot(models) == before


def written_in_place(models: Path) -> None:
    put(models / "one" / "weights.pth", "TEXT")


def replaced(models: Path) -> None:
    put(models / "one" / "fresh.pth", "TEXT")
    (models / "one" / "fresh.pth").replace(models / "one" / "weights.pth")


def written_through_a_hard_link(models: Path) -> None:
    put(models.parent / "elsewhere.pth", "TEXT")


def a_folder_renamed_over_another(models: Path) -> None:
    (models / "one").rename(models.parent / "old")
    (models.parent / "other").rename(models / "one")


def gone_and_back(models: Path) -> None:
    shutil.rmtree(models / "one")
    put(models / "one" / "weights.pth")


@pytest.mark.parametrize(
    "change",
    [written_in_place, replaced, written_through_a_hard_link, a_folder_renamed_over_another, gone_and_back],
)
def test_other_content_of_equal_size_and_mtime_is_a_change(models, change):
    put(models.parent / "elsewhere.pth")
    (models / "one" / "weights.pth").unlink()
    (models / "one" / "weights.pth").hardlink_to(models.parent / "elsewhere.pth")
    put(models.parent / "other" / "model.toml")
    put(models.parent / "other" / "weights.pth", "TEXT")
    before = take_snapshot(models)
    change(models)
    assert "one/weights.pth" in differences(before, take_snapshot(models))


def test_a_replaced_file_is_a_change_where_the_file_system_keeps_no_ctime(models, monkeypatch):
    stat = Path.stat

    def coarse(path: Path) -> SimpleNamespace:
        fields = ("st_mode", "st_dev", "st_ino", "st_size", "st_mtime_ns")
        return SimpleNamespace(**{name: getattr(stat(path), name) for name in fields}, st_ctime_ns=0)

    monkeypatch.setattr(Path, "stat", coarse)
    before = take_snapshot(models)
    put(models / "one" / "fresh.tmp", "TEXT")
    (models / "one" / "fresh.tmp").replace(models / "one" / "weights.pth")
    assert differences(before, take_snapshot(models)) == {"one/weights.pth"}


def test_each_swap_of_the_models_link_is_a_change_and_so_is_an_edit_after_it(models):
    for number in (2, 3):
        put(models.parent / ".git" / str(number) / "one" / "model.toml")
        before = take_snapshot(models)
        link(models, f".git/{number}")
        swapped = take_snapshot(models)
        assert "one/model.toml" in differences(before, swapped)
        shutil.rmtree(models.parent / ".git" / ("one.tmp" if number == 2 else "2"))
        assert take_snapshot(models) == swapped
        put(models / "one" / "model.toml", "TEXT")
        assert differences(swapped, take_snapshot(models)) == {"one/model.toml"}


def test_a_models_link_to_hard_links_of_the_same_files_is_a_change_for_the_old_folder_may_go(models):
    before = take_snapshot(models)
    shutil.copytree(models, models.parent / "two", copy_function=os.link)
    linked = take_snapshot(models)  # to make a hard link changes the ctime
    link(models, "two")
    assert differences(before, linked) == {"one/model.toml", "one/weights.pth"}
    assert differences(linked, take_snapshot(models)) == {".", "one"}


def test_each_swap_of_a_link_in_a_chain_of_them_is_a_change_and_so_is_an_edit_after_it(models):
    elsewhere = models.parent / "elsewhere"
    for number in range(3):
        put(elsewhere / ".git" / str(number) / "model.toml")
    link(elsewhere / "current", ".git/0")
    link(elsewhere / "two", "current")
    link(models / "two", elsewhere / "two")
    for number in (1, 2):
        before = take_snapshot(models)
        link(elsewhere / "current", f".git/{number}")
        swapped = take_snapshot(models)
        assert differences(before, swapped) == {"two", "two/model.toml"}
        put(elsewhere / ".git" / str(number) / "model.toml", "TEXT")
        assert differences(swapped, take_snapshot(models)) == {"two/model.toml"}


def test_a_config_map_that_is_swapped_is_a_change_each_time(models):
    volume = models / "two"
    put(volume / "..1" / "model.toml")
    link(volume / "..data", "..1")
    link(volume / "model.toml", "..data/model.toml")
    for number in (2, 3):
        before = take_snapshot(models)
        put(volume / f"..{number}" / "model.toml")
        link(volume / "..data", f"..{number}")
        shutil.rmtree(volume / f"..{number - 1}")
        assert "two/model.toml" in differences(before, take_snapshot(models))


def test_a_link_to_nothing_is_nothing_until_its_target_comes(models):
    before = take_snapshot(models)
    link(models / "one" / "labels.txt", models.parent / "labels.txt")
    assert take_snapshot(models) == before
    put(models.parent / "labels.txt")
    assert differences(before, take_snapshot(models)) == {"one/labels.txt"}


def test_models_that_vanish_are_a_change_and_so_is_their_return(models):
    before = take_snapshot(models)
    models.rename(models.parent / "away")
    assert take_snapshot(models) == Snapshot()
    (models.parent / "away").rename(models)
    assert take_snapshot(models) == before
    models.unlink()
    models.write_text("a file where the folder was")
    assert differences(before, take_snapshot(models)) == set(before.files)


def test_links_in_circles_end_and_hide_no_file(models):
    for name in "abcdefghij":
        put(models / name / "model.toml")
    for name in "abcdefghij":
        for other in "abcdefghij":
            link(models / name / f"to-{other}", f"../{other}")
        link(models / name / "up", "..")
    link(models / "itself", "itself")
    seen = take_snapshot(models)
    assert {name for name in seen.files if name.endswith("model.toml")} == {
        f"{name}/model.toml" for name in ("one", *"abcdefghij")
    }
    assert list(seen.left_out) == ["itself"]
    assert take_snapshot(models) == seen


def test_the_order_in_which_a_folder_is_listed_is_no_change(models, monkeypatch):
    link(models / "same", "one")
    before, scandir = take_snapshot(models), os.scandir

    @contextlib.contextmanager
    def backwards(folder: Path):
        with scandir(folder) as entries:
            yield sorted(entries, key=lambda entry: entry.name, reverse=True)

    monkeypatch.setattr(os, "scandir", backwards)
    assert take_snapshot(models) == before


@pytest.fixture
def forbid(monkeypatch):
    """Makes folders of these names unreadable, for root too."""
    forbidden: set[str] = set()
    scandir = os.scandir

    def refusing(folder: Path):
        if Path(folder).name in forbidden:
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    return forbidden


def test_an_unreadable_folder_is_left_out_and_hides_nothing_else(models, forbid):
    put(models / "lost+found" / "found")
    put(models / "two" / "model.toml")
    readable = take_snapshot(models)
    forbid.add("lost+found")
    seen = take_snapshot(models)
    assert seen.left_out == {"lost+found": "Permission denied"}
    assert differences(readable, seen) == {"lost+found", "lost+found/found"}
    assert take_snapshot(models) == seen
    put(models / "two" / "model.toml", "TEXT")
    assert differences(seen, take_snapshot(models)) == {"two/model.toml"}


def test_a_folder_that_becomes_readable_is_a_change_even_if_it_is_empty(models, forbid):
    (models / "lost+found").mkdir()
    forbid.add("lost+found")
    before = take_snapshot(models)
    forbid.clear()
    assert differences(before, take_snapshot(models)) == {"lost+found"}


def test_a_folder_with_too_many_files_is_left_out_and_hides_nothing_else(models, monkeypatch):
    monkeypatch.setattr(watching, "MOST_FILES", 20)
    for number in range(21):
        put(models / "a" / "pictures" / str(number))
    put(models / "two" / "model.toml")
    seen = take_snapshot(models)
    assert list(seen.left_out) == ["a/pictures"]
    assert {"a", "one/model.toml", "one/weights.pth", "two/model.toml"} <= set(seen.files)
    (models / "a" / "pictures" / "20").unlink()
    for number in range(10, 20):
        (models / "a" / "pictures" / str(number)).unlink()
    assert "a/pictures/9" in differences(seen, take_snapshot(models))


def look(**files: int) -> Snapshot:
    return Snapshot({name: (version,) for name, version in files.items()})


def test_a_change_is_told_once_when_it_has_been_quiet():
    settling = Settling(look(a=1))
    assert settling.take(look(a=1), 0.0) == []
    assert settling.take(look(a=2), 100.0) == []
    assert settling.take(look(a=2), 100.0 + SETTLED_SECONDS / 2) == []
    assert settling.take(look(a=2), 100.0 + SETTLED_SECONDS) == ["a"]
    assert settling.take(look(a=2), 200.0) == []


def test_a_copy_that_goes_on_is_told_with_all_its_names_when_it_is_quiet():
    settling = Settling(look(a=1, b=1))
    for number in range(10):
        assert settling.take(look(a=1, c=number), number * SETTLED_SECONDS) == []
    assert settling.take(look(a=1, c=9), 10 * SETTLED_SECONDS) == ["b", "c"]


def test_what_has_changed_back_is_told_for_it_may_have_been_loaded_meanwhile():
    settling = Settling(look(a=1))
    settling.take(look(a=2), 1.0)
    settling.take(look(a=1), 2.0)
    assert settling.take(look(a=1), 2.0 + SETTLED_SECONDS) == ["a"]


def test_what_never_rests_is_told_after_the_longest_wait_each_time():
    settling = Settling(look(a=0))
    told = [at for at in range(1, 3 * int(MOST_COPYING_SECONDS)) if settling.take(look(a=at), at * 0.9)]
    waits = [(after - before) * 0.9 for before, after in zip([1, *told], told, strict=False)]
    assert len(waits) == 2
    assert all(MOST_COPYING_SECONDS <= wait <= MOST_COPYING_SECONDS + 2 for wait in waits)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(watching, "SETTLED_SECONDS", 0.05)


def watched(models: Path, seen: Snapshot, story: Callable[[asyncio.Queue[None]], Coroutine]) -> list[dict]:
    """What a watch logs while a story goes on, which gets a queue of what is asked for."""

    async def run() -> None:
        asked: asyncio.Queue[None] = asyncio.Queue()
        task = asyncio.create_task(watch(models, seen, lambda: asked.put_nowait(None)))
        try:
            await asyncio.wait_for(story(asked), 30)
        finally:
            task.cancel()

    with structlog.testing.capture_logs() as logs:
        asyncio.run(run())
    return logs


def test_what_changed_between_the_first_read_and_the_watch_is_told(models, quick):
    seen = take_snapshot(models)
    put(models / "one" / "model.toml", "TEXT")
    logs = watched(models, seen, lambda asked: asked.get())
    assert [log["files"] for log in logs] == [["one/model.toml"]]


def test_a_log_line_has_ten_names_at_most(models, quick):
    seen = take_snapshot(models)
    for number in range(30):
        put(models / "many" / str(number))
    (line,) = watched(models, seen, lambda asked: asked.get())
    assert len(line["files"]) == 10


def test_an_unreadable_folder_is_told_once_and_asks_for_nothing(models, quick, forbid):
    (models / "lost+found").mkdir()
    forbid.add("lost+found")

    async def story(asked: asyncio.Queue[None]) -> None:
        for text in ("TEXT", "text"):
            put(models / "one" / "model.toml", text)
            await asked.get()
        assert asked.empty()

    logs = watched(models, take_snapshot(models), story)
    assert [log["files"] for log in logs] == [{"lost+found": "Permission denied"}, *[["one/model.toml"]] * 2]


def test_a_look_that_hangs_holds_up_neither_the_loop_nor_its_end(models, quick, monkeypatch):
    hangs, goes_on, ended = threading.Event(), threading.Event(), threading.Event()

    def hang(models: Path) -> Snapshot:
        hangs.set()
        goes_on.wait(10)
        ended.set()
        return Snapshot()

    async def story(asked: asyncio.Queue[None]) -> None:
        while not hangs.is_set():
            await asyncio.sleep(0.01)

    monkeypatch.setattr(watching, "take_snapshot", hang)
    try:
        watched(models, Snapshot(), story)
        assert not ended.is_set()
    finally:
        goes_on.set()
        assert ended.wait(10)


def test_a_bug_in_a_look_ends_the_watch_which_ends_the_server(quick, monkeypatch):
    monkeypatch.setattr(watching, "take_snapshot", lambda models: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(watch(Path("models"), Snapshot(), lambda: None))
