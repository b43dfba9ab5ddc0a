"""Every alert that is shipped, made to fire by what it is for, in a real Prometheus that scrapes a real server.

The shipped rules are used as they are, but for their durations, each of which is divided by FACTOR.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.cgroup import AMPLE, Cgroup
from tests.support.coloured import CARD, Colour, make_coloured, picture_of
from tests.support.prometheus import MISSING, Prometheus, is_missing, shipped_alerts
from tests.support.server import Server, wait_for

pytestmark = [pytest.mark.deploy, pytest.mark.skipif(is_missing(), reason=MISSING)]

#: Ten minutes are six seconds: an engine can be killed three times in them.
FACTOR = 100
MOST_QUEUED = 8

CODE = """\
import pathlib
import time

import torch
from torch import nn


class Whim(nn.Module):
    '''What a picture of one colour makes it do is in the tests. It does not load while a file `hold` is beside it.'''

    def __init__(self):
        super().__init__()
        while pathlib.Path(__file__).with_name("hold").exists():
            time.sleep(0.05)
        self.pool = nn.AvgPool2d(8)
        self.last = nn.Linear(48, 10)

    def forward(self, x):
        colours = [tuple(int(value) for value in pixel) for pixel in x[:, :, 0, 0]]
        scores = self.last(torch.flatten(self.pool(x), 1))
        if (255, 0, 0) in colours:
            raise ValueError("red")
        if (0, 255, 0) in colours:
            self.last.weight.data.add_(1)
        if (0, 0, 255) in colours:
            time.sleep(0.6)
        if (255, 255, 0) in colours:
            with torch.inference_mode(False):
                return scores.clone().requires_grad_(True)
        return scores


def NAME():
    return Whim()
"""
RED, GREEN, BLUE, YELLOW, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (99, 99, 99)
#: `train()` of this one ignores what it is told, so that `eval()` leaves it in train mode.
STUCK = CODE.replace("NAME", "stuck").replace(
    "    def forward", "    def train(self, mode=True):\n        return super().train(True)\n\n    def forward"
)


@dataclass
class Watched:
    """A server, the Prometheus that scrapes it, and the cgroup that it was started in, if one could be made."""

    server: Server
    prometheus: Prometheus
    models: Path
    cgroup: Cgroup | None

    def wait_until_it_fires(self, alert: str, limit: float = 30, **labels: str) -> dict:
        began = time.monotonic()
        found = wait_for(lambda: self.prometheus.alerts(alert, **labels), limit, f"{alert} fires")[0]
        print(f"{alert}: fired after {time.monotonic() - began:.1f} s: {found['annotations']['summary']}")
        assert found["labels"]["job"] == "gradless"
        assert found["labels"]["severity"] == shipped_alerts()[alert]["labels"]["severity"]
        words = " ".join(found["annotations"].values())
        assert "<no value>" not in words
        assert "error expanding" not in words
        return found

    def wait_until_it_clears(self, alert: str, limit: float = 40, **labels: str) -> None:
        began = time.monotonic()
        wait_for(lambda: not self.prometheus.alerts(alert, **labels), limit, f"{alert} clears")
        print(f"{alert}: cleared after {time.monotonic() - began:.1f} s")

    def reload(self) -> None:
        before = httpx.get(f"{self.server.url}/models").json()["reload"]["ended"]
        assert httpx.post(f"{self.server.url}/models/reload").status_code == 202
        wait_for(lambda: httpx.get(f"{self.server.url}/models").json()["reload"]["ended"] > before, 60, "the reload")

    def kill_engine(self) -> None:
        """And have its successor answer; one that dies without having done so is replaced after a pause only."""
        os.kill(self.server.engine(), signal.SIGKILL)
        assert ask(self.server, "steady", GREY) == 200


def ask(server: Server, model: str, colour: Colour) -> int:
    body = {"instances": [picture_of(colour)]}
    return httpx.post(f"{server.url}/models/{model}/predict", json=body, timeout=60).status_code


@contextlib.contextmanager
def asking(server: Server, model: str, colour: Colour, clients: int, pause: float = 0.02) -> Iterator[None]:
    """Clients that each ask again once they are answered, whatever the answer; a pause lets refused ones rest."""
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            ask(server, model, colour)
            stop.wait(pause)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One server for all causes, with a model for each, so that no cause shows in another's figures."""
    models = tmp_path_factory.mktemp("alerts") / "models"
    for name in ("steady", "raises", "slow", "crowded"):
        make_coloured(models, name, CODE.replace("NAME", name))
    (models / "crowded" / "model.toml").write_text(CARD.format(name="crowded") + "[batching]\nmax_batch_size = 1\n")
    make_coloured(models, "stuck", STUCK)
    (models / "stuck" / "model.toml").write_text("required = false\n" + CARD.format(name="stuck"))
    cgroup = Cgroup.make()
    try:
        with cgroup.entered() if cgroup else contextlib.nullcontext():
            server = Server(models, "--default-model", "steady", "--max-queued-examples", str(MOST_QUEUED))
        with server, Prometheus([f"127.0.0.1:{server.started().port}"], FACTOR) as prometheus:
            watched = Watched(server, prometheus.started(), models, cgroup)
            try:
                yield watched
            finally:
                watched.server.kill()  # a test may have put another in its place
    finally:
        if cgroup:
            cgroup.remove()


def test_a_model_left_in_train_mode_is_told_until_it_is_mended_and_nothing_else_is(watched):
    watched.wait_until_it_fires("GradlessModelNotServed", model="stuck")
    assert watched.prometheus.firing() == {"GradlessModelNotServed"}
    (watched.models / "stuck" / "architecture.py").write_text(CODE.replace("NAME", "stuck"))
    watched.reload()
    watched.wait_until_it_clears("GradlessModelNotServed")
    assert watched.prometheus.firing() == set()


def test_what_alerts_count_is_there_at_zero_before_it_happens(watched):
    text = httpx.get(f"{watched.server.url}/metrics").text
    for name, labels in {
        "gradless_requests_total": {"model": "steady", "status": "500"},
        "gradless_rejected_total": {"model": "steady", "reason": "overloaded"},
        "gradless_engine_restarts_total": {"device": "cpu", "reason": "seal-broken"},
        "gradless_grad_graph_violations_total": {"model": "steady"},
        "gradless_reloads_total": {"result": "failed"},
    }.items():
        assert Server.samples(text, name, labels) == [0.0], name


def test_a_card_that_cannot_be_read_is_told_when_it_is_reloaded(watched):
    card = watched.models / "steady" / "model.toml"
    whole = card.read_text()
    card.write_text("weights = 3\n")
    watched.reload()
    watched.wait_until_it_fires("GradlessReloadFailed")
    card.write_text(whole)
    watched.reload()
    watched.wait_until_it_clears("GradlessReloadFailed")


def test_a_model_that_raises_burns_the_error_budget_until_it_does_no_more(watched):
    with asking(watched.server, "raises", RED, 1):
        for speed in ("Fast", "Slow"):
            watched.wait_until_it_fires(f"GradlessErrorBudgetBurn{speed}", model="raises")
    for speed in ("Fast", "Slow"):
        watched.wait_until_it_clears(f"GradlessErrorBudgetBurn{speed}", model="raises")


def test_a_slow_model_burns_the_latency_budget_until_it_is_quick(watched):
    with asking(watched.server, "slow", BLUE, 1):
        for speed in ("Fast", "Slow"):
            watched.wait_until_it_fires(f"GradlessLatencyBudgetBurn{speed}", model="slow")
    for speed in ("Fast", "Slow"):
        watched.wait_until_it_clears(f"GradlessLatencyBudgetBurn{speed}", model="slow")


def test_a_queue_is_told_while_more_comes_than_is_done(watched):
    with asking(watched.server, "crowded", BLUE, MOST_QUEUED - 2):
        watched.wait_until_it_fires("GradlessQueueSlow", model="crowded")
        assert not watched.prometheus.alerts("GradlessRefusals")
    watched.wait_until_it_clears("GradlessQueueSlow")


def test_refusals_are_told_while_more_come_than_can_be_held(watched):
    with asking(watched.server, "crowded", BLUE, 2 * MOST_QUEUED, pause=0.2):
        watched.wait_until_it_fires("GradlessRefusals")
    watched.wait_until_it_clears("GradlessRefusals")


def test_a_broken_seal_is_told_although_a_clean_engine_is_back_at_once(watched):
    assert ask(watched.server, "steady", GREEN) == 200
    watched.wait_until_it_fires("GradlessSealBroken", limit=60)
    assert watched.prometheus.query('gradless_engine_restarts_total{reason="seal-broken"}')[0]["value"][1] == "1"
    watched.wait_until_it_clears("GradlessSealBroken")
    assert ask(watched.server, "steady", GREY) == 200


def test_a_graph_built_while_serving_is_told_with_its_model(watched):
    assert ask(watched.server, "steady", YELLOW) == 500
    watched.wait_until_it_fires("GradlessGradGraphViolation", model="steady")
    watched.wait_until_it_clears("GradlessGradGraphViolation")


def test_an_engine_that_is_killed_again_and_again_is_told_and_once_is_not(watched):
    watched.wait_until_it_clears("GradlessEngineRestarts")  # those of the tests before
    watched.kill_engine()
    killed_once = 'instance_device_reason:gradless_engine_restarts:increase10m{reason="SIGKILL"} > 0'
    wait_for(lambda: watched.prometheus.query(killed_once), 10, "the first kill seen")
    assert not watched.prometheus.alerts("GradlessEngineRestarts")

    def killed() -> bool:
        watched.kill_engine()
        return bool(watched.prometheus.alerts("GradlessEngineRestarts"))

    wait_for(killed, 40, "killed often enough")
    watched.wait_until_it_fires("GradlessEngineRestarts")
    watched.wait_until_it_clears("GradlessEngineRestarts")


def test_an_engine_that_does_not_come_up_is_told_until_it_does(watched):
    hold = watched.models / "steady" / "hold"
    hold.touch()
    os.kill(watched.server.engine(), signal.SIGKILL)
    watched.wait_until_it_fires("GradlessNoEngine", device="cpu")
    hold.unlink()
    watched.wait_until_it_clears("GradlessNoEngine")
    assert ask(watched.server, "steady", GREY) == 200


def test_memory_near_the_limit_is_told_until_there_is_more(watched):
    if watched.cgroup is None:
        pytest.skip("no cgroup with a memory limit can be made here")

    def bytes_in_use() -> float:
        return watched.server.metric("gradless_memory_usage_bytes")

    assert not watched.prometheus.alerts("GradlessMemoryNearLimit")
    watched.cgroup.limit(int(bytes_in_use() / 0.93))
    watched.wait_until_it_fires("GradlessMemoryNearLimit")
    watched.cgroup.limit(AMPLE)
    watched.wait_until_it_clears("GradlessMemoryNearLimit")


def test_a_server_that_is_gone_is_told_until_there_is_one_again(watched):
    port = watched.server.port
    assert watched.server.stop() == 0
    watched.wait_until_it_fires("GradlessDown", instance=f"127.0.0.1:{port}")
    watched.server = Server(watched.models, "--default-model", "steady", "--port", str(port))
    watched.server.started()
    watched.wait_until_it_clears("GradlessDown")


def test_every_alert_has_been_seen_here():
    seen = Path(__file__).read_text()
    burns = {f"Gradless{kind}BudgetBurn{speed}" for kind in ("Error", "Latency") for speed in ("Fast", "Slow")}
    assert {name for name in shipped_alerts() if f'wait_until_it_fires("{name}"' not in seen} == burns
