"""Memory under mixed traffic, and recovery of the default model: each in a short form, and in a long one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import threading
import time
from dataclasses import dataclass, field

import httpx
import pytest

from tests.support.models import SHIPPED, SMALL, Direct, assert_right, direct, make_models, photographs
from tests.support.server import Server, wait_for
from tests.support.traffic import JPEG, Traffic

CLIENTS = 8
SAMPLE_SECONDS = 0.5


@pytest.fixture(scope="module")
def mixed_models(tmp_path_factory):
    """The default model, and a small one beside it."""
    models = make_models(tmp_path_factory.mktemp("mixed") / "models", one=SMALL.format(seed=1))
    shutil.copytree(SHIPPED / "efficientnet_lite0", models / "efficientnet_lite0")
    return models


@dataclass
class Mixed:
    """Clients that send good and bad requests of all sizes, and probes that ask ten times a second."""

    server: Server
    models: dict[str, Direct]
    seconds: float
    may_be_unready: bool = False
    answered: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def run(self) -> list[tuple[float, int]]:
        """Returns the tree's PSS in bytes, by the time in seconds."""
        self._end = time.monotonic() + self.seconds
        threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]
        threads.append(threading.Thread(target=self._probe))
        began = time.monotonic()
        for thread in threads:
            thread.start()
        samples = []
        while time.monotonic() < self._end:
            samples.append((time.monotonic() - began, self.server.pss()))
            threading.Event().wait(SAMPLE_SECONDS)
        for thread in threads:
            thread.join(60)
        return samples

    def _client(self, number: int) -> None:
        choices = random.Random(number)
        with httpx.Client(base_url=self.server.url, timeout=60) as session:
            while time.monotonic() < self._end:
                try:
                    choices.choice([self._good, self._good, self._several, self._bad])(session, choices)
                except (AssertionError, httpx.HTTPError) as error:
                    self.errors.append(f"{type(error).__name__}: {error}")
                    return

    def _good(self, session: httpx.Client, choices: random.Random) -> None:
        name, picture = choices.choice(list(self.models)), choices.choice(photographs())
        self._check(session.post(f"/models/{name}/predict", content=picture, headers=JPEG), name, picture)

    def _several(self, session: httpx.Client, choices: random.Random) -> None:
        name, pictures = choices.choice(list(self.models)), choices.choices(photographs(), k=choices.randint(2, 12))
        files = [("file", (f"{n}.jpg", picture)) for n, picture in enumerate(pictures)]
        self._check(session.post(f"/models/{name}/predict", files=files), name, *pictures)

    def _check(self, answer: httpx.Response, name: str, *pictures: bytes) -> None:
        assert answer.status_code == 200, answer.text
        assert_right(answer.json(), self.models[name], *pictures)
        self.answered.append(len(pictures))

    def _bad(self, session: httpx.Client, choices: random.Random) -> None:
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
        self.answered.append(0)

    def _probe(self) -> None:
        while time.monotonic() < self._end:
            for path in ("/health/live", "/health/ready", "/metrics"):
                answer = httpx.get(self.server.url + path, timeout=30)  # a connection each, as a kubelet's
                if answer.status_code != 200 and not (self.may_be_unready and answer.status_code == 503):
                    self.errors.append(f"{path}: {answer.status_code}")
            threading.Event().wait(0.1)


def growth(samples: list[tuple[float, int]], warm: float) -> float:
    """The median of the last third after `warm` seconds beside that of the first third."""
    sizes = [size for at, size in samples if at > warm]
    third = len(sizes) // 3
    return statistics.median(sizes[-third:]) / statistics.median(sizes[:third])


@pytest.mark.parametrize(
    ("seconds", "warm", "most"),
    [(15, 6, 1.05), pytest.param(300, 120, 1.02, marks=[pytest.mark.soak, pytest.mark.timeout(900)])],
)
def test_memory_is_flat_under_good_and_bad_requests_of_all_sizes(serve, mixed_models, seconds, warm, most):
    server = serve(mixed_models, "--default-model", "one")
    mixed = Mixed(server, {name: direct(mixed_models, name) for name in ("one", "efficientnet_lite0")}, seconds)
    samples = mixed.run()
    grown = growth(samples, warm)
    mebibytes = [size >> 20 for _, size in samples]
    print(
        f"{len(mixed.answered)} requests, {sum(mixed.answered)} pictures; PSS {mebibytes[:: len(mebibytes) // 10]} MiB"
    )
    assert mixed.errors == []
    assert sum(mixed.answered) > 100
    assert grown < most


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_kills_at_random_moments_under_mixed_load_lose_nothing_and_answer_nothing_twice(serve, mixed_models, kills):
    server = serve(mixed_models, "--default-model", "one", "--front-ends", "2")
    mixed = Mixed(server, {name: direct(mixed_models, name) for name in ("one", "efficientnet_lite0")}, 1700, True)
    load = threading.Thread(target=mixed.run)
    load.start()
    moments = random.Random(kills)
    try:
        for _ in range(kills):
            engine = server.engine()
            threading.Event().wait(moments.uniform(0.0, 1.5))  # a random moment is what is tested
            os.kill(engine, signal.SIGKILL)
            wait_for(lambda dead=engine: server.pids("gradless: engine") not in ([], [dead]), 60, "a new engine")
        wanted = len(mixed.answered) + 50
        wait_for(lambda: len(mixed.answered) >= wanted or mixed.errors, 60, "answers after the last kill")
    finally:
        mixed._end = 0.0
        load.join(90)
    restarts = server.metric("gradless_engine_restarts_total", device="cpu", reason="SIGKILL")
    counted = server.metric("gradless_requests_total")
    print(f"{kills} kills; {len(mixed.answered)} requests answered, {len(mixed.errors)} lost or wrong")
    assert mixed.errors == []
    assert restarts == kills
    assert counted == len(mixed.answered)


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_e1_the_default_model_serves_on_over_kills_of_its_engine(serve, kills):
    model = direct(SHIPPED, "efficientnet_lite0")
    server = serve(SHIPPED)
    recovered = []
    with Traffic(server, 16) as traffic:
        for _ in range(kills):
            traffic.wait_for_answers(50)
            engine, killed = server.engine(), time.monotonic()
            os.kill(engine, signal.SIGKILL)
            wait_for(lambda dead=engine: server.pids("gradless: engine") not in ([], [dead]), 30, "a new engine")
            recovered.append(killed_to_answer(traffic, killed))
        traffic.wait_for_answers(50)
    print("seconds from a kill to the first answer of the next engine:", [f"{gap:.2f}" for gap in recovered])
    traffic.assert_all_right(model)
    assert server.metric("gradless_engine_restarts_total", device="cpu", reason="SIGKILL") == kills


def killed_to_answer(traffic: Traffic, killed: float) -> float:
    """Seconds without an answer: what the dead engine had sent before it died comes in the first few milliseconds."""
    return traffic.wait_for_answer_after(killed + 0.05) + 0.05
