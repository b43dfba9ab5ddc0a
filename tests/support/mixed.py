"""Clients that send good and bad requests of all sizes, probes beside them, and what the server weighs meanwhile."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from tests.support.models import Direct, assert_right, photographs
from tests.support.server import Server
from tests.support.traffic import JPEG

#: Pauses between two weighings, and how many there are at least in the measured part of a short run.
SAMPLE_SECONDS = 0.5


@dataclass(frozen=True)
class Weight:
    """The server's whole tree of processes at one moment: seconds from the beginning, bytes, counts."""

    at: float
    pss: int
    rss: int
    handles: int
    threads: int
    disk: int


def weigh(server: Server, began: float) -> Weight:
    pss = rss = handles = threads = 0
    for process in server.tree():
        try:
            memory = process.memory_full_info()
            pss, rss = pss + memory.pss, rss + memory.rss
            handles, threads = handles + process.num_fds(), threads + process.num_threads()
        except psutil.Error:  # it ended in between
            continue
    return Weight(time.monotonic() - began, pss, rss, handles, threads, sum(_sizes(Path(server.temporary.name))))


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        try:
            yield path.stat().st_size
        except FileNotFoundError:  # wiped in between
            continue


Ask = Callable[[httpx.Client, random.Random], int]


@dataclass
class Mixed:
    """Clients in threads, each of which calls one of its `asks` after another, drawn at random.

    An ask sends one request, asserts what comes, and returns the pictures in it.
    """

    server: Server
    asks: list[Ask]
    seconds: float
    clients: int = 8
    probes_a_second: float = 10
    may_be_unready: bool = False
    answered: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    probed: int = 0

    def run(self) -> list[Weight]:
        """To the end of `seconds`, or of `stop`."""
        photographs()  # made before the clients, who would each make them, and let their connections go idle
        self._end = time.monotonic() + self.seconds
        threads = [threading.Thread(target=self._client, args=(number,)) for number in range(self.clients)]
        threads.append(threading.Thread(target=self._probe))
        began = time.monotonic()
        for thread in threads:
            thread.start()
        weights = []
        while time.monotonic() < self._end:
            weights.append(weigh(self.server, began))
            threading.Event().wait(max(SAMPLE_SECONDS, self.seconds / 900))
        for thread in threads:
            thread.join(60)
        return weights

    def stop(self) -> None:
        self._end = 0.0

    def _client(self, number: int) -> None:
        choices = random.Random(number)
        with httpx.Client(base_url=self.server.url, timeout=60) as session:
            while time.monotonic() < self._end:
                try:
                    self.answered.append(choices.choice(self.asks)(session, choices))
                except (AssertionError, httpx.HTTPError) as error:
                    self.errors.append(f"{type(error).__name__}: {error}")
                    return

    def _probe(self) -> None:
        """As a kubelet and a Prometheus do: a connection for each question."""
        due = time.monotonic()
        while time.monotonic() < self._end:
            for path in ("/health/live", "/health/ready", "/metrics"):
                answer = httpx.get(self.server.url + path, timeout=30)
                self.probed += 1
                if answer.status_code != 200 and not (self.may_be_unready and answer.status_code == 503):
                    self.errors.append(f"{path}: {answer.status_code}")
            due += 3 / self.probes_a_second
            threading.Event().wait(max(0.0, due - time.monotonic()))


def good(models: dict[str, Direct]) -> Ask:
    """One picture, to one of the models."""

    def ask(session: httpx.Client, choices: random.Random) -> int:
        name, picture = choices.choice(list(models)), choices.choice(photographs())
        answer = session.post(f"/models/{name}/predict", content=picture, headers=JPEG)
        assert answer.status_code == 200, answer.text
        assert_right(answer.json(), models[name], picture)
        return 1

    return ask


def several(models: dict[str, Direct]) -> Ask:
    """Two to twelve pictures, to one of the models."""

    def ask(session: httpx.Client, choices: random.Random) -> int:
        name, pictures = choices.choice(list(models)), choices.choices(photographs(), k=choices.randint(2, 12))
        files = [("file", (f"{n}.jpg", picture)) for n, picture in enumerate(pictures)]
        answer = session.post(f"/models/{name}/predict", files=files)
        assert answer.status_code == 200, answer.text
        assert_right(answer.json(), models[name], *pictures)
        return len(pictures)

    return ask


def bad(session: httpx.Client, choices: random.Random) -> int:
    """What the front end refuses."""
    picture = choices.choice(photographs())
    path, body, status = choices.choice(
        [
            ("/predict", b"", 400),
            ("/predict", bytes(5000), 422),
            ("/predict", picture[: len(picture) // 2], 422),
            ("/predict?top_k=0", picture, 422),
            ("/models/none/predict", picture, 404),
        ]
    )
    answer = session.post(path, content=body, headers=JPEG)
    assert answer.status_code == status, answer.text
    return 0


def thirds(weights: list[Weight], warm: float, name: str) -> tuple[float, float]:
    """The medians of the first and the last third of what was weighed after `warm` seconds."""
    values = [getattr(weight, name) for weight in weights if weight.at > warm]
    third = len(values) // 3
    return statistics.median(values[:third]), statistics.median(values[-third:])


def assert_flat(weights: list[Weight], warm: float, most: float) -> str:
    """Memory within a factor of `most`, no handle, thread or file more; the figures, in words."""
    limits = {"pss": (most, 0), "rss": (most, 0), "handles": (1, 2), "threads": (1, 1), "disk": (1, 1 << 16)}
    told = []
    for name, (times, more) in limits.items():
        first, last = thirds(weights, warm, name)
        unit = " MiB" if name in ("pss", "rss", "disk") else ""
        told.append("{} {:.4g} to {:.4g}{}".format(name, *(n / (1 << 20) if unit else n for n in (first, last)), unit))
        assert last <= first * times + more, told[-1]
    return ", ".join(told)
