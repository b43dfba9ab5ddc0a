"""Temporary files that are removed, or cannot be written, while the server runs: it serves on, recovers and counts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.test_life_cycle import refused
from tests.support.coloured import ask, fragile_code, make_coloured, restarts
from tests.support.compiled import compilers_of
from tests.support.memory import memory_files
from tests.support.models import TRIVIAL_CODE, make_trivial, photographs
from tests.support.server import Server, wait_for
from tests.support.traffic import JPEG

GREY, BROWN = (99, 99, 99), (90, 60, 30)
#: A brown picture takes long enough to be killed with.
SLOW = """\
        if (90, 60, 30) in [tuple(int(value) for value in pixel) for pixel in x[:, :, 0, 0]]:
            time.sleep(1.5)
"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("slow") / "models"
    make_coloured(root, "fragile", fragile_code(SLOW))
    return root


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    with mounted(tmp_path / "disk") as folder:
        yield folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """One that leaves a temporary file."""
    models = make_trivial(tmp_path_factory.mktemp("trivial") / "models")
    unpacks = "import tempfile\n\ntempfile.NamedTemporaryFile(delete=False).write(b'unpacked')\n"
    (models / "trivial" / "architecture.py").write_text(unpacks + TRIVIAL_CODE)
    return models


@pytest.fixture(scope="module")
def running(models) -> Iterator[Server]:
    with Server(models) as server:
        yield server.started()
        assert server.process.poll() is None
        assert server.stop() == 0


@pytest.fixture
def server(running) -> Server:
    """One with one engine that is ready, whichever test had it before."""
    return recovered(running)


@pytest.fixture(scope="module")
def running_cramped(models, tmp_path_factory) -> Iterator[tuple[Server, Path]]:
    root = tmp_path_factory.mktemp("disks")
    with mounted(root / "temporary") as disk, mounted(root / "full") as full:
        fill(full)
        environment = {"TMPDIR": str(disk), "GRADLESS_CACHE": str(full / "cache")}
        with Server(models, environment=environment) as server:
            yield server.started(), disk
            assert server.stop() == 0


@pytest.fixture
def cramped(running_cramped) -> tuple[Server, Path]:
    """A server with its temporary files on a small disk and its cache on a full one, and the small one.

    Its engine is in the first slot, as at the start.
    """
    server, disk = running_cramped
    recovered(server)
    if slots(disk) != ["engine-cpu-a"]:
        reload(server)
        wait_for(lambda: slots(disk) == ["engine-cpu-a"], 30, "the first slot")
    return server, disk


def recovered(server: Server) -> Server:
    server.wait_ready(60)
    wait_for(lambda: len(server.pids("gradless: engine")) == 1, 30, "one engine")
    return server


def fill(folder: Path) -> Path:
    """Take all the room that is left."""
    file = folder / "full"
    with file.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while True:
            out.write(bytes(4096))
    return file


def slots(disk: Path) -> list[str]:
    """The temporary folders of engines, by name."""
    return sorted(folder.name for folder in disk.glob("gradless-*/engine-cpu-*"))


def run_folder(server: Server) -> Path:
    [found] = Path(server.temporary.name).glob("gradless-*")
    return found


def counted(server: Server) -> dict[str, float]:
    """Every counter of every process, and what histograms have counted."""
    page = httpx.get(f"{server.url}/metrics", timeout=30)
    assert page.status_code == 200
    samples = (line.rsplit(" ", 1) for line in page.text.splitlines() if line[0] != "#")
    return {name: float(n) for name, n in samples if name.partition("{")[0].endswith(("_total", "_count", "_bucket"))}


def assert_none_fell(before: dict[str, float], after: dict[str, float]) -> None:
    assert before.keys() <= after.keys()
    assert [name for name in before if after[name] < before[name]] == []


def replaced(server: Server, title: str, dead: int) -> int:
    """The pid of the process that has taken the place of a dead one."""
    return wait_for(lambda: [pid for pid in server.pids(title) if pid != dead], 60, f"another {title}")[0]


def kill(server: Server, *titles: str) -> None:
    """SIGKILL the one process that is called so, and wait for its successor; of several, all at once."""
    pids = {}
    for title in titles:
        [pids[title]] = wait_for(lambda title=title: server.pids(title), 60, title)
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    for title, pid in pids.items():
        replaced(server, title, pid)


def reload(server: Server) -> None:
    """Reload, and see it succeed."""
    before = httpx.post(f"{server.url}/models/reload", timeout=30).json()["reloads_ended"]

    def state() -> dict:
        return httpx.get(f"{server.url}/models", timeout=30).json()["reload"]

    wait_for(lambda: state()["ended"] > before and not state()["running"], 60, "the end of a reload")
    assert state()["error"] == ""


def answers(server: Server) -> None:
    answer = httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG, timeout=60)
    assert answer.status_code == 200, answer.text


def logged(server: Server, event: str, since: int = 0) -> list[str]:
    return [line for line in server.log[since:] if f'"event": "{event}"' in line]


def test_without_its_temporary_files_it_recovers_replays_reloads_counts_on_and_drains(serve, slow):
    server = serve(slow, "--watchdog-seconds", "3")
    for _ in range(3):
        assert ask(server, GREY).status_code == 200
    reload(server)  # the counters of an engine that is gone are there too
    assert ask(server, GREY).status_code == 200
    server.settled("gradless_requests_total")
    before = counted(server)

    shutil.rmtree(run_folder(server))
    assert_none_fell(before, counted(server))

    asked: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: asked.append(ask(server, BROWN)))
    asking.start()
    wait_for(lambda: server.metric("gradless_requests_in_flight") == 1, 30, "a request in flight")
    kill(server, "gradless: engine")
    asking.join(60)
    assert [answer.status_code for answer in asked] == [200]
    assert server.metric("gradless_replayed_requests_total") == 1
    assert restarts(server, "SIGKILL") == 1

    shutil.rmtree(run_folder(server))
    kill(server, "gradless: fork server", "gradless: engine", "gradless: front end")
    server.wait_ready(60)
    assert ask(server, GREY).status_code == 200

    shutil.rmtree(run_folder(server))
    reload(server)
    assert ask(server, GREY).status_code == 200

    shutil.rmtree(run_folder(server))
    hanging = server.engine()
    os.kill(hanging, signal.SIGSTOP)
    replaced(server, "gradless: engine", hanging)
    assert ask(server, GREY).status_code == 200
    assert restarts(server, "watchdog") == 1

    assert_none_fell(before, counted(server))
    assert server.stop() == 0
    assert list(Path(server.temporary.name).glob("gradless-*")) == []


def test_a_removed_socket_is_put_back_for_front_ends_to_come(server):
    told = len(logged(server, "socket restored"))
    [socket] = run_folder(server).glob("engine-*.sock")
    before = socket.stat().st_ino
    shutil.rmtree(run_folder(server))
    wait_for(lambda: socket.exists() and socket.stat().st_ino != before, 30, "a new socket")
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    wait_for(lambda: len(logged(server, "socket restored")) == told + 1, 30, "the word of it")
    kill(server, "gradless: front end")
    server.wait_ready(60)
    answers(server)


def everything(server: Server) -> list[Path]:
    """Each file and folder under TMPDIR and the cache, by its path below that."""
    root = Path(server.temporary.name)
    return sorted(path.relative_to(root) for path in root.rglob("*"))


def remove(path: Path) -> bool:
    """Remove what is there; False when nothing is."""
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        return True
    return False


def test_each_temporary_file_and_each_of_the_cache_may_be_removed_in_turn(server):
    answers(server)
    removed = []
    for path in everything(server):
        before = counted(server)
        if not remove(Path(server.temporary.name) / path):
            continue  # it went with its folder
        removed.append(path)
        answers(server)
        kill(server, "gradless: engine", "gradless: front end")
        server.wait_ready(60)
        answers(server)
        assert_none_fell(before, counted(server))
    print("removed:", [str(path) for path in removed])
    kinds = {path.parts[0].partition("-")[0] for path in removed}
    assert kinds == {"gradless", "cache"}
    for path in everything(server):
        remove(Path(server.temporary.name) / path)
    kill(server, "gradless: engine")
    reload(server)
    answers(server)
    assert server.process.poll() is None


def test_without_temporary_files_and_cache_a_compiler_ends_in_a_verdict(serve, tmp_path):
    """By OpenVINO, which takes a second; AOTInductor takes a C++ compiler, which PATH does not lead to."""
    server = serve(make_trivial(tmp_path / "models"), "--optimize", "auto", environment={"PATH": str(tmp_path)})
    wait_for(lambda: compilers_of(server), 30, "a compiler")
    for path in everything(server):
        remove(Path(server.temporary.name) / path)
    answers(server)
    wait_for(lambda: logged(server, "optimised"), 120, "a verdict")
    answers(server)
    reload(server)
    answers(server)
    assert server.stop() == 0


def test_with_a_cache_that_is_full_it_serves_and_says_what_it_could_not_keep(cramped):
    server, disk = cramped
    answers(server)
    assert "No space left on device" in logged(server, "proof not kept")[0]
    assert [path for path in (disk.parent / "full" / "cache").rglob("*") if path.is_file()] == []


def test_generations_leave_no_memory_file_behind(server):
    for _ in range(3):
        reload(server)
    kill(server, "gradless: engine")
    recovered(server)
    wait_for(lambda: len(memory_files(server, "gradless-aboard")) == 1, 30, "one aboard file")
    assert len(memory_files(server, "gradless-metrics")) == 1


@contextlib.contextmanager
def hidden_by_an_unwritable_one(folder: Path) -> Iterator[None]:
    """Mount an empty disk over it that even root cannot write to."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def ask_for_new_labels(server: Server) -> None:
    """One request for each of several statuses, which the metrics have not seen before."""
    wanted = {
        404: ("/models/none/predict", b"x", JPEG),
        415: ("/predict", b"x", {"Content-Type": "text/x-unknown"}),
        422: ("/predict", b"no picture", JPEG),
        400: ("/predict", b"{", {"Content-Type": "application/json"}),
    }
    for status, (path, body, headers) in wanted.items():
        assert httpx.post(f"{server.url}{path}", content=body, headers=headers, timeout=30).status_code == status
        wait_for(lambda status=status: server.metric("gradless_requests_total", status=str(status)), 10, f"{status}")


def test_on_a_full_disk_nothing_dies_and_all_is_counted(cramped):
    server, disk = cramped
    answers(server)
    [front_end] = server.pids("gradless: front end")
    before = counted(server)
    full = fill(disk)
    ask_for_new_labels(server)
    answers(server)
    reload(server)
    kill(server, "gradless: engine")
    answers(server)
    assert server.pids("gradless: front end") == [front_end]
    kill(server, "gradless: front end")
    server.wait_ready(60)
    ask_for_new_labels(server)
    after = counted(server)
    assert_none_fell(before, after)
    assert after["gradless_metrics_dropped_total"] == 0
    assert not any("SIGBUS" in line for line in server.log)
    full.unlink()
    reload(server)
    answers(server)


def test_while_the_disk_cannot_be_written_starts_fail_and_are_tried_again(cramped):
    server, disk = cramped
    answers(server)
    failed = server.metric("gradless_reloads_total", result="failed")
    not_started, since = restarts(server, "not-started"), len(server.log)
    with hidden_by_an_unwritable_one(disk):
        httpx.post(f"{server.url}/models/reload", timeout=30)
        wait_for(lambda: server.metric("gradless_reloads_total", result="failed") == failed + 1, 60, "a failed reload")
        assert "could not be started" in httpx.get(f"{server.url}/models", timeout=30).json()["reload"]["error"]
        answers(server)
        os.kill(server.engine(), signal.SIGKILL)
        wait_for(lambda: logged(server, "engine could not be started", since), 60, "a failed start")
        assert httpx.get(f"{server.url}/health/live", timeout=30).status_code == 200
        [front_end] = server.pids("gradless: front end")
        os.kill(front_end, signal.SIGKILL)
        wait_for(lambda: logged(server, "front end could not be started", since), 60, "a failed start of a front end")
        [fork_server] = server.pids("gradless: fork server")
        os.kill(fork_server, signal.SIGKILL)
        wait_for(
            lambda: logged(server, "fork server could not be started", since), 60, "a failed start of the fork server"
        )
    server.wait_ready(90)
    answers(server)
    assert restarts(server, "not-started") >= not_started + 1
    # A failed start keeps no slot of its device: there are as many as letters.
    assert slots(disk) == ["engine-cpu-a"]


@pytest.mark.parametrize("what", ["full", "read-only", "absent"])
def test_a_start_without_a_usable_tmpdir_is_told(models, disk, what):
    temporary = disk / "absent" if what == "absent" else disk
    if what == "full":
        fill(disk)
    with hidden_by_an_unwritable_one(disk) if what == "read-only" else contextlib.nullcontext():
        said = refused("--models", str(models), "--device", "cpu", TMPDIR=str(temporary))
    assert f"TMPDIR: {temporary} cannot hold temporary files" in said
    assert "name a folder" in said
