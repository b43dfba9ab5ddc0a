"""The folder of a run is told as unusable in words, made again when it is gone, and taken from no stranger."""

from __future__ import annotations

import os
import shutil
import stat

import pytest

from service.errors import ConfigurationError
from service.host.run_folder import check_own, make_again, make_run_folder


def test_it_is_made_under_tmpdir_for_its_owner_alone(monkeypatch, short_path):
    monkeypatch.setenv("TMPDIR", str(short_path))
    folder = make_run_folder()
    assert folder.parent == short_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text("")], ids=["absent", "a file"])
def test_a_tmpdir_that_is_no_folder_is_told(monkeypatch, tmp_path, make):
    make(tmp_path / "t")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    with pytest.raises(ConfigurationError, match="TMPDIR"):
        make_run_folder()


def test_a_tmpdir_too_long_for_a_socket_is_told_and_left_empty(monkeypatch, tmp_path):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    with pytest.raises(ConfigurationError, match="short path"):
        make_run_folder()
    assert list(deep.iterdir()) == []


def test_it_is_made_again_with_what_is_above_and_in_it(tmp_path):
    run = tmp_path / "tmp" / "gradless-x"
    for _ in range(2):
        assert make_again(run, "engine-cpu-a").is_dir()
        assert stat.S_IMODE(run.stat().st_mode) == 0o700
        shutil.rmtree(tmp_path / "tmp")


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_one_that_others_may_write_to_is_refused(tmp_path, mode):
    tmp_path.chmod(mode)
    with pytest.raises(PermissionError):
        make_again(tmp_path, "engine-cpu-a")
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_its_place_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "gradless-x").symlink_to("elsewhere")
    with pytest.raises(PermissionError):
        make_again(tmp_path / "gradless-x")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_one_of_another_user_is_refused(tmp_path):
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(PermissionError):
        check_own(tmp_path)
