"""The servers under measurement: started on a free port, suspended while another is measured, weighed, and ended."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from service.bench import venvs
from service.bench.bodies import Seen
from service.bench.load_generator import Traffic, http_requests
from service.bench.workload import WorkloadSpec
from service.errors import ConfigurationError

T = TypeVar("T")

START_SECONDS = 180.0
PEERS = ("naive", "litserve", "mosec", "triton")


@dataclass
class MeasuredServer:
    """One server and how to ask it.

    Attributes:
        name: `gradless`, or a peer.
        path: the route that answers.
        encoding: of its requests; see `load_generator.Traffic`.
        group: its process group; None for a server that was running already.
        started_in: seconds from the command to the first answer.
    """

    name: str
    host: str
    port: int
    path: str
    encoding: str = "raw"
    group: int | None = None
    started_in: float = 0.0

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def traffic(self, seen: Seen, seconds: float, **more: float) -> Traffic:
        return Traffic(self.host, self.port, self.path, seen, seconds, encoding=self.encoding, **more)  # type: ignore[arg-type]

    def tree(self) -> list[psutil.Process]:
        """Its living processes."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.Error):
                if self.group is not None and os.getpgid(process.pid) == self.group:
                    found.append(process)
        return found

    def pss(self) -> int:
        """Bytes of all its processes, a page that several of them map counted once; Linux.

        The kernel's own PSS counts a library's page in part for each process of the machine that maps it, other
        servers included. So: anonymous pages as it counts them, which only relatives share, and of each file what the
        process that has the most of it has. Source: proc_pid_smaps(5).
        """
        files: dict[str, int] = {}
        for maps in self._each(lambda process: process.memory_maps(grouped=True)):
            for mapped in maps:
                files[mapped.path] = max(files.get(mapped.path, 0), mapped.rss - mapped.anonymous)
        return sum(self._each(_anonymous_pss)) + sum(files.values())

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time of its living processes so far, by what they are called; a peer's together."""
        spent: dict[str, float] = {}
        for title, seconds in self._each(lambda process: (_title(process), float(sum(process.cpu_times()[:2])))):
            spent[title] = spent.get(title, 0.0) + seconds
        return spent

    def _each(self, read: Callable[[psutil.Process], T]) -> Iterator[T]:
        for process in self.tree():
            with contextlib.suppress(psutil.Error):
                yield read(process)

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Running; outside it is suspended, so that it takes nothing from the others."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.suspend()

    def suspend(self) -> None:
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        if self.group is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.group, number)


def _title(process: psutil.Process) -> str:
    """`engine`, `front end`, … of one of ours."""
    words = " ".join(process.cmdline())
    found = re.match(r"gradless: (front end|fork server|\w+)", words)
    return found[1] if found else "all"


def _anonymous_pss(process: psutil.Process) -> int:
    with contextlib.suppress(OSError):  # it ended in between
        found = re.search(r"^Pss_Anon: +(\d+) kB", Path(f"/proc/{process.pid}/smaps_rollup").read_text("ascii"), re.M)
        return 1024 * int(found[1]) if found else 0
    return 0


def by_open_inference(server: MeasuredServer, model: str) -> MeasuredServer:
    """Return one of our servers, asked by Open Inference Protocol v2."""
    path = f"/v2/models/{model}/infer"
    return dataclasses.replace(server, name="open-inference", path=path, encoding="open-inference")


def running_server(url: str, model: str) -> MeasuredServer:
    """A server that runs already.

    Raises:
        ConfigurationError: the URL is none of plain HTTP.
    """
    found = re.fullmatch(r"http://([^/:]+)(?::(\d+))?/?", url)
    if not found:
        raise ConfigurationError.at("--url", url, "is not such an address", "http://HOST:PORT")
    return MeasuredServer("gradless", found[1], int(found[2] or 80), f"/models/{model}/predict")


@contextlib.contextmanager
def gradless(flags: Sequence[object], model: str, seen: Seen, tree: Path | None = None) -> Iterator[MeasuredServer]:
    """The shipped server, or that of another tree, and one of its models; `seen` is what that sees."""
    command = [sys.executable, "-m", "service", "serve", "--host", "127.0.0.1", "--drain-delay-seconds", "0"]
    command += [*map(str, flags), "--port"]
    environment = {"PYTHONPATH": str(tree)} if tree else {}
    with _running("gradless", command, f"/models/{model}/predict", "raw", seen, environment, tree) as server:
        yield server


@contextlib.contextmanager
def peer(name: str, spec: WorkloadSpec, seen: Seen) -> Iterator[MeasuredServer]:
    """A peer doing the same job, in a virtual environment of its own.

    Raises:
        ConfigurationError: it cannot be installed.
    """
    folder = Path(__file__).parent / "peers"
    environment = spec.environment()
    if name == "naive":
        script = "naive.py" if seen.side else "naive_tensors.py"
        command, path, encoding = [sys.executable, str(folder / script)], "/predict", "raw"
    elif name == "litserve":
        command, path, encoding = [venvs.python("litserve"), str(folder / "litserve_server.py")], "/predict", "json"
    elif name == "triton":
        command = [venvs.python("triton"), str(folder / "triton_server.py")]
        path, encoding = f"/v2/models/{spec.name}/infer", "open-inference"
    else:
        command = [venvs.python("mosec"), str(folder / "mosec_server.py"), "--address", "127.0.0.1"]
        command += ["--timeout", "60000", "--port"]
        path, encoding = "/inference", "raw"
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    with _running(name, command, path, encoding, seen, environment) as server:
        yield server


@contextlib.contextmanager
def _running(
    name: str,
    command: Sequence[str],
    path: str,
    encoding: str,
    seen: Seen,
    environment: dict[str, str],
    folder: Path | None = None,
) -> Iterator[MeasuredServer]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    temporary = tempfile.mkdtemp(prefix="gradless-bench-")
    log = Path(temporary, "log")
    began = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": temporary} | environment,
            cwd=folder,
            start_new_session=True,
        )
    server = MeasuredServer(name, "127.0.0.1", port, path, encoding, process.pid)
    try:
        _wait_for_answer(server, seen, process, log)
        server.started_in = time.perf_counter() - began
        yield server
    finally:
        _end(server, process)
        shutil.rmtree(temporary, ignore_errors=True)


def _wait_for_answer(server: MeasuredServer, seen: Seen, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the first request is answered."""
    request = http_requests(server.traffic(seen, 0))[0]
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((server.host, server.port), timeout=60) as asking:
            asking.sendall(request)
            if asking.recv(15).endswith(b" 200 OK"):
                return
        time.sleep(0.01)
    words = log.read_text("utf-8", "replace").splitlines()[-12:]
    raise ConfigurationError([f"bench: {server.name} did not start:", *words])


def _end(server: MeasuredServer, process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for whatever is left after a while."""
    server._signal(signal.SIGCONT)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    server._signal(signal.SIGKILL)
    process.wait(10)


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())
