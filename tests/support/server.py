"""The shipped server as a process: started on a free port, watched, and always ended."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

from service.frontend.accounts import SETTLE_SECONDS

T = TypeVar("T")
START_SECONDS = 120

#: httpx.get and its like read all certificates for each request, over plain HTTP too: 25 ms of a core that the server
#: could use. Once is enough.
httpx._transports.default.create_ssl_context = functools.cache(httpx.create_ssl_context)


def wait_for(condition: Callable[[], T], limit: float, what: str) -> T:
    """The condition's first true value; fails when there is none in `limit` seconds."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if value := condition():
            return value
        threading.Event().wait(0.01)
    raise AssertionError(f"{what}: not within {limit:g} s")


class Server:
    """`gradless serve` in a process group of its own.

    Args:
        models: the models folder.
        flags: more of the command line.
        environment: variables beside those of the tests.
        launcher: a command that starts the server in its own place, such as `setpriv`.
        redirect: such as `2>&-`, as a shell would start it.
        stdout: where standard output goes.
        command: stands for `gradless`.
        folder: where it starts.
    """

    def __init__(
        self,
        models: Path,
        *flags: str,
        environment: dict[str, str] | None = None,
        launcher: Sequence[str] = (),
        redirect: str = "",
        stdout: int = subprocess.DEVNULL,
        command: Sequence[str] = (sys.executable, "-m", "service"),
        folder: Path | None = None,
    ) -> None:
        command = [*command, "serve", "--models", str(models), "--port", "0", "--device", "cpu"]
        if "--optimize" not in flags:
            command += ["--optimize", "eager"]
        if "--drain-delay-seconds" not in flags:
            command += ["--drain-delay-seconds", "0.2"]
        if redirect:
            command = ["sh", "-c", f'exec "$@" {redirect}', "sh", *command]
        self.temporary = tempfile.TemporaryDirectory(prefix="gradless-test-")
        folders = {"TMPDIR": self.temporary.name, "GRADLESS_CACHE": f"{self.temporary.name}/cache"}
        self.process = subprocess.Popen(
            [*launcher, *command, *flags],
            stderr=subprocess.PIPE,
            stdout=stdout,
            text=True,
            env=os.environ | folders | (environment or {}),
            cwd=folder,
            start_new_session=True,
        )
        self.log: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.reading = threading.Event()  # cleared, the reader stops after the next line
        self.reading.set()
        self._hung_up = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self.log.append(line)
            self._lines.put(line)
            self.reading.wait()
            if self._hung_up:
                break
        self._lines.put(None)

    def hang_up(self) -> None:
        """Close the reader's end of stderr; the reader must have stopped."""
        self._hung_up = True
        self.reading.set()
        self._reader.join(10)
        assert self.process.stderr
        self.process.stderr.close()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of the log with this event, and fail on a line that is not JSON."""
        return [event for line in list(self.log) if (event := json.loads(line))["event"] == name]

    def started(self) -> Server:
        """Wait for the line that says where it serves."""
        end = time.monotonic() + START_SECONDS
        while (line := self._lines.get(timeout=max(0.1, end - time.monotonic()))) is not None:
            if line.startswith("{") and (event := json.loads(line)).get("event") == "serving":
                self.url: str = event["url"]
                self.operations: str = event["operations"]
                return self
        raise AssertionError("the server ended while starting:\n" + "".join(self.log))

    def wait_ready(self, limit: float = 30) -> None:
        wait_for(self.is_ready, limit, "ready")

    def is_ready(self) -> bool:
        return self._is_well("ready")

    def is_live(self) -> bool:
        return self._is_well("live")

    def _is_well(self, probe: str) -> bool:
        try:
            return httpx.get(f"{self.url}/health/{probe}", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def tree(self) -> list[psutil.Process]:
        """Every living process of the server: the group it was started in, whoever their parents are."""
        found = []
        for process in psutil.process_iter(["status"]):
            try:
                if os.getpgid(process.pid) == self.process.pid and process.info["status"] != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except ProcessLookupError:
                continue
        return found

    def pids(self, title: str) -> list[int]:
        """Processes by what `ps` calls them, such as `gradless: engine`."""
        found = []
        for process in self.tree():
            try:
                if " ".join(process.cmdline()).startswith(title):
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def engine(self) -> int:
        """The pid of the one engine."""
        return wait_for(lambda: self.pids("gradless: engine"), 30, "an engine")[0]

    def pss(self) -> int:
        """Bytes of the whole tree, shared pages counted once."""
        total = 0
        for process in self.tree():
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        return total

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return sum(self.samples(httpx.get(f"{self.operations}/metrics", timeout=30).text, name, labels))

    def settled(self, name: str, **labels: str) -> float:
        """The same, once it has rested: every process counts after its answers, a front end some milliseconds after."""
        seen, since = self.metric(name, **labels), time.monotonic()

        def rested() -> bool:
            nonlocal seen, since
            if (now := self.metric(name, **labels)) != seen:
                seen, since = now, time.monotonic()
            return time.monotonic() - since > 4 * SETTLE_SECONDS

        wait_for(rested, 10, f"{name} at rest")
        return seen

    @staticmethod
    def samples(text: str, name: str, labels: dict[str, str]) -> list[float]:
        values = []
        for line in text.splitlines():
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if match and match[1] == name:
                have = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
                if labels.items() <= have.items():
                    values.append(float(match[3]))
        return values

    def stop(self, limit: float = 40) -> int:
        """SIGTERM and its exit code; whatever of the group is left after the limit is killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(limit)
        finally:
            self.kill()

    def kill(self) -> None:
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait(10)
        self.reading.set()
        self._reader.join(10)
        if self.process.stderr:
            self.process.stderr.close()
        self.temporary.cleanup()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: Any) -> None:
        self.kill()


@contextlib.contextmanager
def started_unready() -> Iterator[Callable[..., Server]]:
    """A function that starts a server which may never be ready: its address is known beforehand, and it answers.

    The function takes the models folder and flags. Its servers are killed at the end.
    """
    running: list[Server] = []

    def started(models: Path, *flags: str, **more: Any) -> Server:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = Server(models, "--port", str(port), *flags, **more)
        running.append(server)
        server.url = server.operations = f"http://127.0.0.1:{port}"
        wait_for(lambda: server.is_live(), 60, "an answer")
        return server

    yield started
    for server in running:
        server.kill()
