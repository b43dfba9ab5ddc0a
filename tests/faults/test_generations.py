"""Rows C2 to C4, C8 to C10, E7 and E15 of the fault matrix: how one generation of the engines follows another."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.hurried import WATCHFUL, hurried
from tests.support.models import TRIVIAL, TRIVIAL_CODE, Direct, assert_right, direct, make_models, photographs
from tests.support.server import Server, started_unready, wait_for
from tests.support.traffic import JPEG, Traffic

#: Breaks the proof: dropout that eval() does not reach.
DROPOUT_CODE = """\
from torch import nn
from torch.nn import functional


class Drops(nn.Sequential):
    def forward(self, x):
        return functional.dropout(super().forward(x))


def trivial():
    return Drops(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
"""
KILLED_CODE = "import os\n\nos.kill(os.getpid(), 9)\n"


def trivial(seed: int, **changed: int) -> str:
    """A card of the trivial model; `changed` are other numbers for its keys."""
    text = TRIVIAL.replace("random:1", f"random:{seed}")
    for key, value in changed.items():
        text, found = re.subn(rf"{key} = \d+", f"{key} = {value}", text)
        assert found == 1
    return text


def put(file: Path, text: str) -> None:
    """Replace a file as an operator should: whole or not at all."""
    fresh = file.with_suffix(".tmp")
    fresh.write_text(text)
    fresh.replace(file)


def make_one(root: Path) -> Path:
    make_models(root, one=trivial(1))
    put(root / "one" / "architecture.py", TRIVIAL_CODE)
    return root


@pytest.fixture
def models(tmp_path):
    """One trivial model, which a test may change."""
    return make_one(tmp_path / "models")


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[tuple[Server, Path]]:
    root = make_one(tmp_path_factory.mktemp("shared") / "models")
    with Server(root) as server:
        yield server.started(), root


@pytest.fixture
def shared(running) -> tuple[Server, Path]:
    """A server, whichever test had it before, and its models: one trivial model, which a test may change."""
    server, root = running
    put(root / "one" / "model.toml", trivial(1))
    put(root / "one" / "architecture.py", TRIVIAL_CODE)
    if httpx.get(f"{server.url}/models/one").json()["version"] != direct(root, "one").version:
        assert reloaded(server) == ""
    wait_for(lambda: one_engine(server), 30, "the end of the engines before")
    server.wait_ready()
    return running


def reloaded(server: Server, limit: float = 60) -> str:
    """SIGHUP, and the error that the reload ends with; empty where it succeeded."""
    before = httpx.get(f"{server.url}/models").json()["reload"]["ended"]
    server.process.send_signal(signal.SIGHUP)
    return reload_ended(server, before, limit)


def reload_ended(server: Server, before: int, limit: float = 60) -> str:
    def state() -> dict | None:
        found = httpx.get(f"{server.url}/models", timeout=30).json()["reload"]
        return found if found["ended"] > before else None

    return wait_for(state, limit, "the end of a reload")["error"]


def assert_each_of_one_generation(traffic: Traffic, *generations: Direct) -> None:
    """Every answer is a 200, and wholly that of the generation whose version it tells; each has answered."""
    by_version = {model.version: model for model in generations}
    assert traffic.errors == []
    seen = set()
    for answer in traffic.answers:
        assert answer.response.status_code == 200, answer.response.text
        body = answer.response.json()
        assert_right(body, by_version[body["version"]], photographs()[answer.picture])
        seen.add(body["version"])
    assert seen == set(by_version)


def one_engine(server: Server) -> bool:
    return len(server.pids("gradless: engine")) == 1


def test_c3_a_model_replaced_under_load_is_switched_to_and_every_answer_is_of_one_version(serve, models):
    old = direct(models, "one")
    server = serve(models, "--front-ends", "2")
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(50)
        put(models / "one" / "model.toml", trivial(2))
        new = direct(models, "one")
        assert reloaded(server) == ""
        traffic.wait_for_answers(50)
        wait_for(lambda: one_engine(server), 30, "the end of the old engine")
    assert_each_of_one_generation(traffic, old, new)
    assert server.metric("gradless_reloads_total", result="succeeded") == 1
    assert server.metric("gradless_model_info", version=old.version) == 0
    assert server.metric("gradless_model_info", version=new.version) == 1
    assert httpx.get(f"{server.url}/models/one").json()["version"] == new.version


def test_c3_a_model_whose_input_changes_never_gets_a_picture_that_was_decoded_for_the_old_one(shared):
    server, models = shared
    generations = [direct(models, "one")]
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(50)
        for sizes in ({"resize": 48, "crop": 32}, {"resize": 64, "crop": 32}, {"resize": 40, "crop": 32}):
            put(models / "one" / "model.toml", trivial(1, **sizes))
            generations.append(direct(models, "one"))
            assert reloaded(server) == ""
            traffic.wait_for_answers(50)
    assert len({model.version for model in generations}) == 4
    assert_each_of_one_generation(traffic, *generations)


def test_c3_with_watch_a_folder_that_comes_goes_or_changes_is_taken_up_when_it_is_quiet(serve, models):
    server = serve(models, "--watch", "--default-model", "one", command=WATCHFUL)

    def status(name: str) -> int:
        return httpx.post(f"{server.url}/models/{name}/predict", content=photographs()[0], headers=JPEG).status_code

    assert status("two") == 404
    shutil.copytree(models / "one", models / "two")
    wait_for(lambda: status("two") == 200, 30, "the new model")
    shutil.rmtree(models / "two")
    wait_for(lambda: status("two") == 404, 30, "the end of the model")
    put(models / "one" / "model.toml", trivial(2))
    version = direct(models, "one").version
    wait_for(lambda: httpx.get(f"{server.url}/models/one").json()["version"] == version, 30, "the new version")
    reload_ended(server, 2)
    assert server.metric("gradless_reloads_total") == 3  # and none for the bytecode that loading leaves in the folder


def test_c3_a_request_to_reload_while_one_runs_means_one_more_and_no_more(shared):
    server, models = shared
    gate = models / "one" / "gate"
    waits = f"import pathlib\n\nGATE = pathlib.Path({str(gate)!r})\nif GATE.exists():\n    GATE.read_text()\n"
    put(models / "one" / "architecture.py", waits + TRIVIAL_CODE)
    before = httpx.get(f"{server.url}/models").json()["reload"]["ended"]
    os.mkfifo(gate)  # the next engine waits in it
    answers = [httpx.post(f"{server.url}/models/reload")]
    wait_for(lambda: httpx.get(f"{server.url}/models").json()["reload"]["running"], 30, "a reload")
    answers += [httpx.post(f"{server.url}/models/reload") for _ in range(7)]
    assert {answer.status_code for answer in answers} == {202}
    with gate.open("w") as opened:
        gate.unlink()
        opened.write("go")
    reload_ended(server, before + 1)
    state = httpx.get(f"{server.url}/models").json()["reload"]
    assert state == {"running": False, "ended": before + 2, "error": ""}


def test_c3_the_only_model_may_get_another_name(shared):
    server, models = shared
    (models / "one").rename(models / "other")
    assert reloaded(server) == ""
    answer = httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG)
    assert (answer.status_code, answer.json()["model"]) == (200, "other")
    assert [model["name"] for model in httpx.get(f"{server.url}/models").json()["models"]] == ["other"]
    (models / "other").rename(models / "one")
    assert reloaded(server) == ""


BAD = {
    "a card that is no card": ("model.toml", "crops = 3\n", "crops"),
    "a file that is not there": ("model.toml", trivial(1).replace("random:1", "file:gone.pth"), "gone.pth"),
    "code that raises": ("architecture.py", "raise ValueError('no such day')\n", "no such day"),
    "a failed proof": ("architecture.py", DROPOUT_CODE, "repeatable"),
    "an engine that dies while it starts": ("architecture.py", KILLED_CODE, "SIGKILL"),
}


def test_c4_a_bad_change_changes_nothing_and_is_told_until_a_reload_succeeds(shared):
    server, models = shared
    model = direct(models, "one")
    good = {name: (models / "one" / name).read_text() for name in ("model.toml", "architecture.py")}
    engine, failed = server.engine(), server.metric("gradless_reloads_total", result="failed")
    since = len(server.log)

    def told() -> str:
        """What the log says of reloads that failed."""
        return "".join(line for line in server.log[since:] if json.loads(line)["event"] == "reload failed")

    with Traffic(server, 4) as traffic:
        for number, (kind, (name, text, words)) in enumerate(BAD.items(), 1):
            put(models / "one" / name, text)
            error = reloaded(server)
            assert words in error, kind
            assert httpx.get(f"{server.url}/models/one").json()["reload_error"] == error
            assert server.metric("gradless_reloads_total", result="failed") == failed + number
            wait_for(lambda: words in told(), 30, f"a line of the log about {kind}")  # noqa: B023
            assert server.is_ready()
            traffic.wait_for_answers(20)
            put(models / "one" / name, good[name])
        wait_for(lambda: one_engine(server), 30, "the end of the engines that were no good")
    assert server.engine() == engine
    assert_each_of_one_generation(traffic, model)
    assert reloaded(server) == ""
    assert httpx.get(f"{server.url}/models/one").json()["reload_error"] == ""


@pytest.mark.parametrize("generations", [4, pytest.param(20, marks=pytest.mark.soak)])
def test_c8_generations_one_after_another_under_load_cost_nothing_that_stays(shared, generations):
    server, models = shared
    directs = []
    for number in range(generations + 1, 0, -1):  # the first is the last to be written, and stays
        put(models / "one" / "model.toml", trivial(number))
        directs.append(direct(models, "one"))
    with Traffic(server, 4) as traffic:
        traffic.wait_for_answers(20)
        for number in range(2, generations + 2):
            put(models / "one" / "model.toml", trivial(number))
            assert reloaded(server) == ""
            traffic.wait_for_answers(20)
            wait_for(lambda: one_engine(server), 30, "the end of the old engine")
            if number == 3:  # what is made once has been made
                memory, kept = anonymous_bytes(server), leftovers(server)
    wait_for(lambda: leftovers(server) == kept, 10, f"files and handles back at {kept}")
    last = anonymous_bytes(server)
    print(f"after the second reload {memory >> 20} MiB, after the last of {generations} {last >> 20} MiB; {kept}")
    assert last < 1.05 * memory
    assert_each_of_one_generation(traffic, *directs)


def anonymous_bytes(server: Server) -> int:
    """The tree's PSS without the pages of files: those of libraries count less while another server maps them too."""
    text = "".join(Path(f"/proc/{process.pid}/smaps_rollup").read_text() for process in server.tree())
    return sum(1024 * int(size) for size in re.findall(r"^Pss_(?:Anon|Shmem): +(\d+) kB", text, re.MULTILINE))


def leftovers(server: Server) -> tuple[int, int]:
    """Files of the run folder, and open handles of the supervisor and the front end beside their clients' sockets."""
    files = [path for path in Path(server.temporary.name).glob("gradless-*/**/*") if "engine-cpu-" not in path.name]
    pids = [server.process.pid, *server.pids("gradless: front end")]
    handles = [psutil.Process(pid).num_fds() - len(psutil.Process(pid).net_connections("tcp")) for pid in pids]
    return len(files), sum(handles)


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_c10_what_a_killed_engine_leaves_in_its_temporary_folder_is_wiped(shared, kills):
    server, models = shared
    unpacks = "import tempfile\n\ntempfile.NamedTemporaryFile(delete=False).write(b'unpacked')\n"
    put(models / "one" / "architecture.py", unpacks + TRIVIAL_CODE)
    assert reloaded(server) == ""
    wait_for(lambda: one_engine(server), 30, "the end of the old engine")

    def unpacked() -> list[Path]:
        return list(Path(server.temporary.name).glob("gradless-*/engine-*/tmp*"))

    assert len(unpacked()) == 1
    for _ in range(kills):
        engine = server.engine()
        assert httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG).status_code == 200
        os.kill(engine, signal.SIGKILL)
        wait_for(lambda dead=engine: server.pids("gradless: engine") not in ([], [dead]), 30, "a new engine")
        server.wait_ready()
    assert len(unpacked()) == 1
    assert not list(Path(server.temporary.name).glob("tmp*"))


def test_stop_first_waits_for_the_end_of_the_old_engine_and_no_request_fails(serve, models):
    old = direct(models, "one")
    server = serve(models, "--replace", "stop-first", "--watchdog-seconds", "100")
    engine = server.engine()
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(50)
        put(models / "one" / "model.toml", trivial(2, resize=48))
        new = direct(models, "one")
        os.kill(engine, signal.SIGSTOP)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "finishes, and its successor starts" in why_not_ready(server), 30, "the change")
        threading.Event().wait(1)  # longer than an engine takes to be there
        assert server.pids("gradless: engine") == [engine]
        os.kill(engine, signal.SIGCONT)
        assert reload_ended(server, 0) == ""
        traffic.wait_for_answers(50)
    assert_each_of_one_generation(traffic, old, new)


@pytest.fixture
def start(models):
    """A server that may never be ready: started, and its address known beforehand."""
    with started_unready() as started:
        yield partial(started, models)


def why_not_ready(server: Server) -> str:
    answer = httpx.get(f"{server.url}/health/ready")
    return "" if answer.status_code == 200 else " ".join(answer.json()["reasons"])


def test_e7_an_engine_that_never_comes_up_is_told_and_the_server_exits_after_the_limit(start, models):
    put(models / "one" / "architecture.py", KILLED_CODE)
    server = start("--start-limit-seconds", "10")
    wait_for(lambda: "ended 2 times in a row" in why_not_ready(server), 10, "the reason")
    assert server.is_live()
    assert server.process.wait(20) == 1
    assert any("giving up" in line for line in server.log)
    wait_for(lambda: not server.tree(), 5, "no process left")


def test_e7_a_failed_proof_is_not_tried_again_until_a_file_changes(start, models):
    put(models / "one" / "architecture.py", DROPOUT_CODE)
    server = start("--watch", "--start-limit-seconds", "60", command=WATCHFUL)
    wait_for(lambda: "the proof failed" in why_not_ready(server), 30, "the reason")
    engine = server.engine()
    threading.Event().wait(1.5)  # longer than the pause before a second try, and than a reload that nobody asked for
    assert server.pids("gradless: engine") == [engine]
    assert server.metric("gradless_reloads_total") == server.metric("gradless_engine_restarts_total") == 0
    put(models / "one" / "architecture.py", TRIVIAL_CODE)
    server.wait_ready()
    assert httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG).status_code == 200


def test_e15_with_no_engine_at_all_a_request_waits_until_its_deadline(shared):
    server, models = shared
    put(models / "one" / "architecture.py", KILLED_CODE)
    os.kill(server.engine(), signal.SIGKILL)
    wait_for(lambda: "in a row" in why_not_ready(server), 30, "not ready")
    began = time.monotonic()
    late = httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG | {"X-Timeout-Ms": "500"})
    assert late.status_code == 504
    assert time.monotonic() - began >= 0.5
    waiting: list[httpx.Response] = []
    client = threading.Thread(
        target=lambda: waiting.append(
            httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG, timeout=60)
        )
    )
    client.start()
    put(models / "one" / "architecture.py", TRIVIAL_CODE)
    client.join(60)
    assert [answer.status_code for answer in waiting] == [200]


@pytest.mark.parametrize("load_seconds", [0, pytest.param(60, marks=pytest.mark.soak)])
def test_c9_a_slow_load_is_live_and_not_ready_and_says_what_it_waits_for(start, models, load_seconds):
    gate = models / "gate"
    os.mkfifo(gate)
    put(models / "one" / "architecture.py", f"open({str(gate)!r}).read()\n" + TRIVIAL_CODE)
    server = start()
    loading = r"one: loading \(cpu: its engine loads and proves one, since \d+ s\)"
    wait_for(lambda: re.search(loading, why_not_ready(server)), 30, "the reason")
    threading.Event().wait(load_seconds)
    assert re.search(loading, why_not_ready(server))
    assert server.is_live()
    gate.write_text("go")
    server.wait_ready(30)


def test_c9_a_load_beyond_the_limit_ends_the_server(models):
    put(models / "one" / "architecture.py", "import time\n\ntime.sleep(100)\n" + TRIVIAL_CODE)
    with Server(models, "--start-limit-seconds", "2") as server:
        assert server.process.wait(60) == 1
        wait_for(lambda: not server.tree(), 5, "no process left")
        assert any("giving up" in line for line in server.log)


def test_c2_sigterm_during_a_reload_loses_nothing_and_does_not_wait_for_it(serve, models):
    model = direct(models, "one")
    server = serve(models)
    put(models / "one" / "architecture.py", "import time\n\ntime.sleep(100)\n" + TRIVIAL_CODE)
    with Traffic(server, 4) as traffic:
        traffic.wait_for_answers(20)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(server.pids("gradless: engine")) == 2, 30, "an engine that loads")
        server.process.terminate()
        assert server.process.wait(20) == 0
    assert_each_of_one_generation(traffic, model)
    wait_for(lambda: not server.tree(), 5, "no process left")


def test_c2_a_request_that_is_stuck_during_the_drain_is_refused_when_it_is_over(serve, models):
    flags = ("--drain-limit-seconds", "1", "--watchdog-seconds", "100")
    server = serve(models, *flags, command=hurried(tree__ENGINE_DRAIN_SECONDS=0.2))
    os.kill(server.engine(), signal.SIGSTOP)
    stuck: list[httpx.Response] = []
    ask = lambda: stuck.append(httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG))  # noqa: E731
    client = threading.Thread(target=ask)
    client.start()
    wait_for(lambda: server.metric("gradless_requests_in_flight") == 1, 30, "a request in flight")
    server.process.terminate()
    assert server.process.wait(20) == 1
    client.join(10)
    assert [(answer.status_code, answer.json()["type"]) for answer in stuck] == [(503, "urn:gradless:problem:draining")]
    wait_for(lambda: not server.tree(), 5, "no process left")


def test_sighup_to_the_whole_group_reloads_and_ends_nobody(shared):
    server, _ = shared
    ended = httpx.get(f"{server.url}/models").json()["reload"]["ended"]
    before = {process.pid for process in server.tree()}
    os.killpg(server.process.pid, signal.SIGHUP)
    assert reload_ended(server, ended) == ""
    wait_for(lambda: one_engine(server), 30, "the end of the old engine")
    assert len(before - {process.pid for process in server.tree()}) == 1  # the old engine
