"""The cache of packages refuses what may not be ours or is not whole, is bounded, and survives who dies in it."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.audit.fresh_process import in_child
from service.errors import ConfigurationError
from service.loader.packages import MOST_PACKAGES, Packages, RefusedPackageError, not_ours
from service.loader.verdict import Verdict
from tests.support.fork_server import start_with_imports

WON = Verdict("compiled", "it wins")


@pytest.fixture
def packages(tmp_path):
    found = Packages(tmp_path)
    assert found.writable() == ""
    return found


def kept(packages, tmp_path, key="k", content=b"native code"):
    file = tmp_path / "built.pt2"
    file.write_bytes(content)
    return packages.write(key, WON, file)


def test_what_is_written_is_found_again(packages, tmp_path):
    verdict = kept(packages, tmp_path)
    assert packages.read("k") == verdict
    assert packages.open(verdict).read_bytes() == b"native code"
    assert packages.read("another") is None


def test_a_package_is_kept_though_the_cache_was_removed_while_it_was_built(packages, tmp_path):
    shutil.rmtree(tmp_path / "compiled")
    verdict = kept(packages, tmp_path)
    assert packages.open(packages.read("k")).read_bytes() == b"native code"
    assert (tmp_path / "compiled").stat().st_mode & 0o777 == 0o700
    assert verdict == packages.read("k")


def test_the_folder_is_made_for_its_owner_alone(packages, tmp_path):
    assert (tmp_path / "compiled").stat().st_mode & 0o777 == 0o700


def test_one_flipped_bit_is_refused(packages, tmp_path):
    file = packages.open(verdict := kept(packages, tmp_path))
    file.write_bytes(b"native codf")
    with pytest.raises(RefusedPackageError, match="hashes to"):
        packages.open(verdict)


def test_a_package_that_is_gone_is_refused(packages, tmp_path):
    packages.open(verdict := kept(packages, tmp_path)).unlink()
    with pytest.raises(RefusedPackageError, match="No such file"):
        packages.open(verdict)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_package_that_others_can_write_is_refused(packages, tmp_path, mode):
    packages.open(verdict := kept(packages, tmp_path)).chmod(mode)
    with pytest.raises(RefusedPackageError, match="can be written by others"):
        packages.open(verdict)


def test_a_folder_that_others_can_write_is_refused_for_reading_and_writing(packages, tmp_path):
    verdict = kept(packages, tmp_path)
    (tmp_path / "compiled").chmod(0o770)
    with pytest.raises(RefusedPackageError, match="can be written by others"):
        packages.open(verdict)
    assert "can be written by others" in packages.writable()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_package_of_another_user_is_refused(packages, tmp_path):
    os.chown(packages.open(verdict := kept(packages, tmp_path)), 12345, -1)
    with pytest.raises(RefusedPackageError, match="belongs to user 12345"):
        packages.open(verdict)


def test_what_root_owns_is_trusted():
    assert not_ours(Path("/usr/bin")) == ""


def test_a_cache_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be made" in Packages(tmp_path / "file").writable()


@pytest.mark.parametrize("name", ["../elsewhere.pt2", "/tmp/elsewhere.pt2"])
def test_a_verdict_that_names_a_file_elsewhere_is_refused(packages, name):
    with pytest.raises(RefusedPackageError, match="is not a file name"):
        packages.open(Verdict("compiled", "it wins", package=name))


def test_what_was_made_meanwhile_is_not_forgotten(packages, tmp_path):
    old = kept(packages, tmp_path, content=b"old")
    new = kept(packages, tmp_path, content=b"new")
    packages.forget("k", old)
    assert packages.open(packages.read("k")).read_bytes() == b"new"
    packages.forget("k", new)
    assert packages.read("k") is None
    assert not list((tmp_path / "compiled").glob("*.pt2"))


def test_two_who_write_under_one_key_leave_a_verdict_and_its_own_package(packages, tmp_path):
    kept(packages, tmp_path, content=b"of the first")
    verdict = kept(packages, tmp_path, content=b"of the second")
    assert packages.open(packages.read("k")).read_bytes() == b"of the second"
    assert packages.read("k") == verdict


def test_the_packages_used_the_longest_ago_go_first_and_their_verdicts_with_them(packages, tmp_path):
    verdicts = [kept(packages, tmp_path, f"k{n}", bytes([n])) for n in range(MOST_PACKAGES)]
    for age, verdict in enumerate(reversed(verdicts)):
        os.utime(tmp_path / "compiled" / verdict.package, (1000 - age, 1000 - age))
    packages.open(verdicts[0])  # used now
    kept(packages, tmp_path, "new", b"new")
    assert packages.read("k0")
    assert packages.read("new")
    assert packages.read("k1") is None
    assert len(list((tmp_path / "compiled").glob("*.pt2"))) == MOST_PACKAGES


def test_what_a_killed_writer_left_is_wiped(packages, tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = tmp_path / "compiled" / f"k.{dead.stdout.strip()}.partial"
    left.write_text("half")
    mine = tmp_path / "compiled" / f"other.{os.getpid()}.partial"
    mine.write_text("being written")
    kept(packages, tmp_path)
    assert not left.exists()
    assert mine.exists()


@pytest.fixture(scope="module", autouse=True)
def _children_start_at_once():
    start_with_imports()


def dies(connection, root):
    with Packages(root).trying("k"):
        os.kill(os.getpid(), signal.SIGKILL)


def a_process_dies(root):
    with pytest.raises(ConfigurationError, match="signal 9"):
        in_child(dies, root)


def test_a_package_that_was_tried_well_has_no_deaths_to_its_name(packages, tmp_path):
    for _ in range(2):
        a_process_dies(tmp_path)
        with packages.trying("k"):
            pass


def test_a_package_at_which_two_processes_died_is_not_tried_a_third_time_and_then_anew(packages, tmp_path):
    for _ in range(2):
        a_process_dies(tmp_path)
    with pytest.raises(RefusedPackageError, match="2 processes ended"), packages.trying("k"):
        pass
    with packages.trying("k"):
        pass


def builds(connection, root):
    connection.send("asks")
    with Packages(root).building():
        connection.send("in")


def test_who_builds_is_alone(packages, tmp_path):
    context = multiprocessing.get_context("forkserver")
    receiving, sending = context.Pipe(duplex=False)
    waiter = context.Process(target=builds, args=(sending, tmp_path), daemon=True)
    with receiving, sending:
        with packages.building():
            waiter.start()
            assert receiving.recv() == "asks"
            assert not receiving.poll(1)
        assert receiving.poll(60)
        assert receiving.recv() == "in"
        waiter.join()
