"""The shipped server and commands where other people run them: users, locales, variables and folders not of ours."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from service.host.cores import usable_cores
from service.host.metric_memory import make_metric_memory
from service.metrics import Metrics
from tests.support.cgroup import cpu_cgroup
from tests.support.models import TRIVIAL, TRIVIAL_CODE, make_models, make_trivial, photographs
from tests.support.server import Server, wait_for
from tests.support.stranger import UID, as_stranger

ROOT = Path(__file__).parents[2]
JPEG = {"Content-Type": "image/jpeg"}

LABELS = ["Vögel", "日本", "a\u2028b\x0c\x85", "naïve", "5", "6", "7", "8", "9", "€"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """One small model whose labels are UTF-8, with a byte order mark, CRLF, and blank lines at the end."""
    models = make_trivial(tmp_path_factory.mktemp("models") / "models")
    card = models / "trivial" / "model.toml"
    card.write_bytes(b"\xef\xbb\xbf" + b'labels = "file:labels.txt"\r\n' + card.read_bytes())
    text = "\ufeff" + "\r\n".join(LABELS) + "\r\n\r\n"
    (models / "trivial" / "labels.txt").write_bytes(text.encode())
    return models


@pytest.fixture(scope="module")
def latin_1(tmp_path_factory) -> dict[str, str]:
    """The variables of a Latin-1 locale: compiled here, or of Python's files alone where that cannot be."""
    folder = tmp_path_factory.mktemp("locales")
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.ISO-8859-1")]
    if shutil.which("localedef") and subprocess.run(command, capture_output=True).returncode == 0:
        return {"LOCPATH": str(folder), "LC_ALL": "en_US.ISO-8859-1"}
    return ASCII | {"PYTHONIOENCODING": "latin-1"}


ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.fixture
def locale(request, latin_1) -> dict[str, str]:
    return variables_of(request.param, latin_1)


def variables_of(locale: str, latin_1: dict[str, str]) -> dict[str, str]:
    return latin_1 if locale == "Latin-1" else ASCII | {"LC_ALL": locale}


def predicted(server: Server) -> list[str]:
    """The labels that a picture gets, of all classes."""
    answer = httpx.post(f"{server.url}/predict?top_k=100", content=photographs()[0], headers=JPEG, timeout=30)
    assert answer.status_code == 200, answer.text
    return [entry["label"] for entry in answer.json()["predictions"][0]["classes"]]


def gradless(*arguments: object, redirect: str = "", code: int = 0, **environment: str) -> subprocess.CompletedProcess:
    """Run a command to its end, which must be this code."""
    command = [sys.executable, "-m", "service", *map(str, arguments), "--device", "cpu"]
    done = _run(command, redirect, environment)
    assert done.returncode == code, done.stderr.decode()
    return done


#: Runs commands in turn, each followed by --then, and prints a NUL after each; their codes go to the file named first.
IN_TURN = """\
import sys
from service.cli import main

_, file, *rest = sys.argv
while rest:
    end = rest.index("--then")
    sys.argv, rest = ["gradless", *rest[:end]], rest[end + 1 :]
    try:
        main()
    except SystemExit as ended:
        with open(file, "a") as codes:
            print(ended.code, file=codes)
    print(end="\\0", flush=True)
"""


def in_turn(
    folder: Path, *commands: tuple[object, ...], redirect: str = "", **environment: str
) -> tuple[list[bytes], list[int]]:
    """What each command prints, and its code: one process imports torch for all of them."""
    arguments = [str(part) for command in commands for part in (*command, "--device", "cpu", "--then")]
    codes = folder / "codes"
    codes.unlink(missing_ok=True)
    done = _run([sys.executable, "-c", IN_TURN, str(codes), *arguments], redirect, environment)
    assert done.returncode == 0, done.stderr.decode()
    said = done.stdout.split(b"\0")
    assert said.pop() == b""
    return said, [int(line) for line in codes.read_text().split()]


def _run(command: list[str], redirect: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    if redirect:
        command = ["sh", "-c", f'exec "$@" {redirect}', "sh", *command]
    surroundings = os.environ | {"GRADLESS_CACHE": "/dev/null/cache"} | environment
    done = subprocess.run(command, capture_output=True, env=surroundings, cwd=ROOT, timeout=120)
    assert b"Traceback" not in done.stderr
    return done


# Users


@pytest.fixture
def abroad(models) -> Iterator[Path]:
    """A folder that everybody can look into, with a copy of the models and a temporary folder of the stranger's own."""
    with tempfile.TemporaryDirectory(prefix="gradless-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(models, folder / "models")
        (folder / "tmp").mkdir(mode=0o700)
        os.chown(folder / "tmp", UID, UID)
        yield folder


@pytest.mark.parametrize(
    "variables",
    [
        (),
        pytest.param(("HOME=/",), marks=pytest.mark.full),
        ("HOME=/nonexistent", "XDG_CACHE_HOME=relative"),
        pytest.param(("HOME=/nonexistent", "XDG_CACHE_HOME=/proc/cache"), marks=pytest.mark.full),
    ],
    ids=["none", "/", "nonexistent, relative cache", "nonexistent, unwritable cache"],
)
def test_a_user_without_a_name_and_a_home_is_served_and_its_proof_is_kept(serve, abroad, variables):
    unset = [f"--unset={name}" for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "GRADLESS_CACHE")]
    launcher = ("env", *unset, *variables, *as_stranger())
    server = serve(abroad / "models", launcher=launcher, environment={"TMPDIR": str(abroad / "tmp")})
    assert sorted(predicted(server)) == sorted(LABELS)
    stand_in = abroad / "tmp" / f"gradless-user-{UID}"
    [note] = server.events("a temporary folder in place of a home")
    assert note["cache"].startswith(str(stand_in))
    assert ("home" in note) == (not variables)
    assert list(Path(note["cache"]).rglob("proofs/*.json"))
    assert bool(server.events("XDG_CACHE_HOME passed over")) == ("XDG_CACHE_HOME=relative" in variables)
    assert server.settled("gradless_engine_restarts_total") == 0
    assert server.stop() == 0


@pytest.mark.parametrize("compilers", [("CXX=/nonexistent",), pytest.param((), marks=pytest.mark.full)])
def test_a_package_is_compiled_for_a_user_without_a_name_and_a_home(abroad, compilers):
    """By OpenVINO, which asks for a home, and in the full form by AOTInductor, which takes half a minute."""
    unset = [f"--unset={name}" for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "GRADLESS_CACHE")]
    command = [
        sys.executable,
        "-m",
        "service",
        "compile",
        "--models",
        str(abroad / "models"),
        "--device",
        "cpu",
        "--json",
    ]
    launcher = ["env", *unset, *compilers, f"TMPDIR={abroad / 'tmp'}", *as_stranger()]
    done = subprocess.run([*launcher, *command], capture_output=True, text=True, cwd=ROOT, timeout=240)
    assert done.returncode == 0, done.stderr
    assert list((abroad / "tmp").glob(f"gradless-user-{UID}/.cache/gradless/compiled/*.json"))
    assert [file.name for file in (abroad / "tmp").iterdir()] == [f"gradless-user-{UID}"]


def test_a_temporary_folder_whose_name_is_too_long_is_told_before_the_port_opens(models, tmp_path):
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    said = gradless("serve", "--models", models, "--port", "0", code=2, TMPDIR=str(folder)).stderr.decode()
    assert "environment: TMPDIR: " in said
    assert "path too long; name a folder with a short path" in said
    assert list(folder.iterdir()) == []


# Locales


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("C", "<&-"), marks=pytest.mark.full),  # POSIX is another name of C
        ("Latin-1", ">&-"),
        ("POSIX", "<&- >&-"),
    ],
    ids=", ".join,
)
def poor(request, models, latin_1) -> Iterator[Server]:
    """A server of a poor locale, that has not got what it does not use of its standard descriptors."""
    locale, closed = request.param
    with Server(models, environment=variables_of(locale, latin_1), redirect=closed) as server:
        yield server.started()
        assert server.stop() == 0


def test_labels_are_what_their_file_says_under_any_locale(poor):
    assert sorted(predicted(poor)) == sorted(LABELS)


WAIVED = "Größe, 日本"


@pytest.mark.parametrize("locale", ["C", "Latin-1", pytest.param("POSIX", marks=pytest.mark.full)], indirect=True)
def test_predict_prints_labels_and_names_of_files_and_check_speaks_under_any_locale(models, locale, tmp_path):
    here = Path(shutil.copytree(models, tmp_path / "models"))
    card = here / "trivial" / "model.toml"
    card.write_bytes(card.read_bytes() + f'[proof.waive]\nrepeatable = "{WAIVED}"\n'.encode())
    odd, picture, report = tmp_path / "café\n日本.jpg", tmp_path / "café.jpg", tmp_path / "report.json"
    for file in (odd, picture):
        file.write_bytes(photographs()[0])
    predict = ("predict", "--models", here, "--top-k", "10")
    check = ("check", "--models", here, "--report", report)
    commands = ((*predict, odd, "--json"), (*predict, picture, "--csv"), (*predict, picture), check)
    printed, codes = in_turn(tmp_path, *commands, **locale, COLUMNS="300")
    assert codes == [0] * 4
    as_json, *others, checked = [
        part.decode("utf-8" if "PYTHONIO" not in str(locale) else "latin-1") for part in printed
    ]
    [prediction] = json.loads(as_json)["predictions"]
    assert prediction["file"] == str(odd)
    assert sorted(entry["label"] for entry in prediction["classes"]) == sorted(LABELS)
    for said in others:
        assert "Vögel" in said
        assert "naïve" in said
        assert str(picture) in said.replace("\n", "")
    assert "trivial" in checked
    record = json.loads(report.read_bytes())
    assert record["models"][0]["card"]["proof"]["waive"]["repeatable"] == WAIVED
    assert record["machine"]["cores"] == usable_cores()


@pytest.mark.parametrize("locale", ["C", "POSIX", "Latin-1"], indirect=True)
def test_a_file_that_is_not_utf_8_is_told_before_the_port_opens(models, tmp_path, locale):
    """Every such file at once."""
    cases = {
        ("one", "model.toml"): (b"# caf\xe9\n", "file: line 1, byte 6 (0xe9) is not UTF-8 text"),
        ("two", "labels.txt"): (b"a\nV\xf6gel\n", "labels: line 2, byte 2 (0xf6) is not UTF-8 text"),
        ("three", "labels.txt"): (b"a\n\nb\n", "labels: line 2 is blank"),
    }
    for (name, file), (content, _) in cases.items():
        shutil.copytree(models / "trivial", tmp_path / name)
        (tmp_path / name / file).write_bytes(content)
    said = gradless("serve", "--models", tmp_path, "--port", "0", code=2, **locale).stderr.decode()
    for (name, file), (_, words) in cases.items():
        assert f"{name}/{file}: {words}" in said


# Variables and files of others


LINKS = {
    "GRADLESS_PORT": "tcp://10.0.0.1:8000",
    "GRADLESS_SERVICE_HOST": "10.0.0.1",
    "GRADLESS_SERVICE_PORT": "8000",
    "GRADLESS_SERVICE_PORT_HTTP": "8000",
    "GRADLESS_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "GRADLESS_PORT_8000_TCP_PROTO": "tcp",
    "GRADLESS_PORT_8000_TCP_PORT": "8000",
    "GRADLESS_PORT_8000_TCP_ADDR": "10.0.0.1",
    "GRADLESS_OPERATIONS_PORT": "tcp://10.0.0.2:9000",
    "GRADLESS_X_PORT": "tcp://10.0.0.3:80",
}


class Crowded(NamedTuple):
    """A server among the variables and files of others, and its metrics before anybody has asked it anything."""

    server: Server
    models: Path
    at_rest: str


@pytest.fixture(scope="module")
def crowded(tmp_path_factory) -> Iterator[Crowded]:
    """Of two models, in a pod with service links, in a folder whose .env other programs share, with hidden folders."""
    folder = tmp_path_factory.mktemp("crowded")
    lines = ["\ufeffAWS_REGION=eu-west-1", "GRADLESS_MAX_INSTANCES=3", "export DATABASE_URL='postgres://ö'"]
    (folder / ".env").write_bytes("\r\n".join(lines).encode())
    models = make_models(folder / "models", one=TRIVIAL, two=TRIVIAL)
    for name in ("one", "two"):
        (models / name / "architecture.py").write_text(TRIVIAL_CODE)
    for name in (".ipynb_checkpoints", ".git", "..data", "__pycache__", "lost+found"):
        (models / name).mkdir()
    for name in (".ipynb_checkpoints", ".git", "..data"):
        (models / name / "model.toml").write_text("not a card")
    (models / "notes.txt").touch()
    environment = LINKS | {"GRADLESS_TIMEOUT": "5", "PYTHONPATH": str(ROOT)}
    with Server(models, "--default-model", "one", "--watch", environment=environment, folder=folder) as server:
        server.started()
        yield Crowded(server, models, httpx.get(f"{server.operations}/metrics").text)
        assert server.stop() == 0


def test_a_pod_with_service_links_and_an_env_file_of_others_is_served(crowded):
    server = crowded.server
    assert predicted(server)
    assert server.url == server.operations
    [note] = server.events("service links passed over")
    assert note["variables"] == sorted(LINKS)
    [note] = server.events("unknown variables passed over")
    assert note["variables"] == {"GRADLESS_TIMEOUT": "did you mean GRADLESS_TIMEOUT_MS?"}
    shown = httpx.post(f"{server.url}/predict", json={"instances": [[[[0, 0, 0]]]] * 4})
    assert shown.status_code == 413  # the key that is ours counts


# A quota


def cores_seen(launcher: tuple[str, ...] = ()) -> int:
    """By a process that imports nothing else: with half a core, a whole check would take twenty seconds."""
    command = [sys.executable, "-c", "from service.host.cores import usable_cores; print(usable_cores())"]
    return int(subprocess.run([*launcher, *command], capture_output=True, cwd=ROOT, timeout=60, check=True).stdout)


def test_half_a_quota_of_the_own_cgroup_alone_counts_as_one_core():
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("here is one core without a quota too")
    with cpu_cgroup(0.5) as enter:
        assert cores_seen(enter) == 1
    assert cores_seen() > 1


# Descriptors

CLOSED = [" ".join(chosen) for n in (1, 2, 3) for chosen in itertools.combinations(["<&-", ">&-", "2>&-"], n)]


#: Where torch is imported: what is printed beside a closed input and a closed error, and what is printed nowhere.
SHORT = ["<&- 2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize(
    "closed", [each if each in SHORT else pytest.param(each, marks=pytest.mark.full) for each in CLOSED]
)
def test_predict_and_check_do_without_each_standard_descriptor_and_a_closed_input_is_told_as_empty(
    models, tmp_path, closed
):
    (tmp_path / "picture.jpg").write_bytes(photographs()[0])
    commands = [("predict", tmp_path / "picture.jpg", "--models", models, "--json")]
    if "<&-" in closed:
        commands.append(("predict", "-", "--models", models, "--json"))
    if closed == CLOSED[-1]:
        commands.append(("check", "--models", models))
    printed, codes = in_turn(tmp_path, *commands, redirect=closed)
    assert codes == [0, 1, 0][: len(commands)]
    if " >&-" in f" {closed}":
        assert printed == []
    else:
        picture, *empty = [json.loads(said)["predictions"][0] for said in printed]
        assert picture["classes"]
        assert all(each["error"] for each in empty)


@pytest.mark.parametrize("closed", CLOSED)
def test_a_refusal_does_not_go_to_standard_output_where_standard_error_is_closed(closed):
    """A refusal that comes before there is a log, which has streams of its own."""
    done = gradless("serve", "--timeout-ms", "0", redirect=closed, code=2)
    assert done.stdout == b""
    assert (done.stderr == b"") == ("2>&-" in closed)


def test_a_server_does_without_what_it_does_not_use(poor):
    assert predicted(poor)


# Folders among the models


def test_what_editors_and_volumes_leave_among_the_models_is_passed_over(crowded):
    server, here = crowded.server, crowded.models
    assert [model["name"] for model in httpx.get(f"{server.operations}/models").json()["models"]] == ["one", "two"]
    (here / ".ipynb_checkpoints" / "model.toml").write_text("still not a card")
    (here / "one" / "new.txt").touch()
    [event] = wait_for(lambda: server.events("files changed"), 30, "the change of a model")
    assert event["files"] == ["one/new.txt"]


def test_a_folder_that_may_be_a_model_and_cannot_be_read_is_told(models, tmp_path):
    here = Path(shutil.copytree(models, tmp_path / "models"))
    (here / "locked").mkdir(mode=0o000)
    launcher = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    command = [*launcher, sys.executable, "-m", "service", "serve", "--models", str(here), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 2
    assert f"{here}/locked: folder: cannot be read: Permission denied; make it readable" in done.stderr


# Counters

#: Metrics that have no sample after a start, and why.
ABSENT = {
    "gradless_memory_limit_bytes": "without a limit there is nothing to say",
    "gradless_memory_usage_bytes": "without a limit there is nothing to say",
    "gradless_device_memory_bytes": "only a GPU has torch's allocator",
}


@pytest.fixture(scope="module")
def at_rest(crowded) -> str:
    """The metrics of a server with two models that nobody has asked yet."""
    return crowded.at_rest


def test_every_metric_has_a_sample_before_anything_has_happened(at_rest):
    registered = Metrics("test", make_metric_memory())
    assert registered.build_info._name == "gradless_build_info"
    names = {metric._name: metric._type for metric in vars(registered).values()}
    endings = {"counter": "_total", "gauge": "", "histogram": "_count"}
    shown = {line.split("{")[0].split(" ")[0] for line in at_rest.splitlines() if not line.startswith("#")}
    missing = {name for name, kind in names.items() if f"{name}{endings[kind]}" not in shown}
    assert missing <= set(ABSENT)
    assert len(names) > 20


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("gradless_replayed_requests_total", {"model": "one"}),
        ("gradless_grad_graph_violations_total", {"model": "two"}),
        ("gradless_engine_restarts_total", {"device": "cpu", "reason": "SIGKILL"}),
        ("gradless_engine_restarts_total", {"device": "cpu", "reason": "SIGSEGV"}),
        ("gradless_engine_restarts_total", {"device": "cpu", "reason": "watchdog"}),
        ("gradless_engine_restarts_total", {"device": "cpu", "reason": "seal-broken"}),
        ("gradless_reloads_total", {"result": "failed"}),
        ("gradless_requests_total", {"model": "one", "status": "200"}),
        ("gradless_requests_total", {"model": "two", "status": "499"}),
        ("gradless_requests_total", {"model": "unknown", "status": "404"}),
        ("gradless_rejected_total", {"model": "one", "reason": "deadline_exceeded"}),
        ("gradless_rejected_total", {"model": "unknown", "reason": "headers_too_slow"}),
        ("gradless_rule_waived", {"model": "one", "rule": "repeatable"}),
        ("gradless_queue_depth", {"model": "one"}),
        ("gradless_log_lines_dropped_total", {}),
    ],
)
def test_what_an_alert_or_a_person_looks_for_is_there_at_0(at_rest, name, labels):
    samples = Server.samples(at_rest, name, labels)
    assert samples
    assert set(samples) == {0.0}


def test_the_metrics_of_a_server_at_rest_are_no_flood(at_rest):
    assert len(at_rest.encode()) < 20_000 + 2 * 12_000
