"""Rows E1 and L5 to L9: memory under hours of everything in minutes, and kills at random moments.

Each has a short form, and a long one for `make soak`, which draws docs/figures/soak.png.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.audit.drawing import new_figure, save
from tests.faults.test_models import CODE, COLOURS
from tests.support.coloured import make_coloured, picture_of
from tests.support.mixed import Mixed, Weight, assert_flat, bad, good, several
from tests.support.models import SHIPPED, SMALL, Direct, direct, make_models, make_trivial, photographs
from tests.support.server import Server, wait_for
from tests.support.traffic import Traffic

PLOT = Path(__file__).parents[2] / "docs" / "figures" / "soak.png"


def long(*values: float, limit: int) -> object:
    return pytest.param(*values, marks=[pytest.mark.soak, pytest.mark.timeout(limit)])


@pytest.fixture(scope="module")
def mixed_models(tmp_path_factory):
    """The default model and two small ones beside it: three sizes of input."""
    smaller = SMALL.format(seed=2).replace("72", "40").replace("64", "32")
    models = make_models(tmp_path_factory.mktemp("mixed") / "models", one=SMALL.format(seed=1), two=smaller)
    shutil.copytree(SHIPPED / "efficientnet_lite0", models / "efficientnet_lite0")
    return models


@pytest.fixture(scope="module")
def directs(mixed_models) -> dict[str, Direct]:
    models = {name: direct(mixed_models, name) for name in ("one", "two", "efficientnet_lite0")}
    for model in models.values():
        for picture in photographs():
            model.probabilities(picture)  # a client that reckons meanwhile would let its connection go idle, and closed
    return models


@pytest.fixture(scope="module")
def mixed_server(mixed_models) -> Iterator[Server]:
    """A server of those models that each test leaves as whole as it found it, if with another engine."""
    with Server(mixed_models, "--default-model", "efficientnet_lite0", "--front-ends", "2") as server:
        yield server.started()


def everything(server: Server, directs: dict[str, Direct], seconds: float, **more: object) -> Mixed:
    """Half of it single pictures, a quarter several of them, a quarter bad."""
    return Mixed(server, [good(directs), good(directs), several(directs), bad], seconds, **more)


@pytest.mark.alone
@pytest.mark.parametrize(("seconds", "warm", "most"), [(12, 6, 1.05), long(1800, 180, 1.02, limit=2400)])
def test_l5_l9_memory_is_flat_under_good_and_bad_requests_of_all_sizes(
    serve, mixed_models, directs, seconds, warm, most
):
    server = serve(mixed_models, "--default-model", "one")
    mixed = everything(server, directs, seconds)
    weights = mixed.run()
    if seconds >= 1800:
        draw(weights, sum(mixed.answered), PLOT)
    assert mixed.errors == []
    assert sum(mixed.answered) > 100
    told = assert_flat(weights, warm, most)
    print(f"{seconds} s: {len(mixed.answered)} requests, {sum(mixed.answered)} pictures, 0 wrong; {told}")


@pytest.mark.alone
@pytest.mark.parametrize(("seconds", "warm", "most"), [(7, 3, 1.05), long(180, 30, 1.02, limit=600)])
def test_l7_probes_and_scrapes_on_connections_of_their_own_cost_nothing_that_stays(
    serve, tmp_path, seconds, warm, most
):
    mixed = Mixed(serve(make_trivial(tmp_path / "models")), [], seconds, clients=0, probes_a_second=60)
    weights = mixed.run()
    assert mixed.errors == []
    assert mixed.probed > 10 * seconds
    print(f"{mixed.probed / seconds:.0f} probes a second for {seconds} s; {assert_flat(weights, warm, most)}")


@pytest.mark.alone
@pytest.mark.parametrize(("seconds", "warm", "most"), [(8, 4, 1.05), long(180, 30, 1.02, limit=600)])
def test_l8_requests_that_all_fail_cost_nothing_that_stays(serve, tmp_path, seconds, warm, most):
    def ill(session: httpx.Client, choices: random.Random) -> int:
        colour, kind = choices.choice(list(COLOURS.values()))
        answer = session.post("/predict", json={"instances": [picture_of(colour)]})
        assert answer.status_code == 500
        assert answer.json()["type"] == f"urn:gradless:problem:{kind}"
        return 0

    mixed = Mixed(serve(make_coloured(tmp_path / "models", "wayward", CODE)), [ill, bad], seconds)
    weights = mixed.run()
    assert mixed.errors == []
    assert len(mixed.answered) > 10 * seconds
    print(f"{len(mixed.answered)} failures in {seconds} s; {assert_flat(weights, warm, most)}")


def draw(weights: list[Weight], pictures: int, file: Path) -> None:
    """Memory, handles and threads of the whole tree against minutes; every axis begins at nothing."""
    figure = new_figure(11, 3.6)
    minutes = [weight.at / 60 for weight in weights]
    panels = (
        ("memory, MiB", {"RSS": [w.rss >> 20 for w in weights], "PSS": [w.pss >> 20 for w in weights]}),
        ("file handles", {"": [w.handles for w in weights]}),
        ("threads", {"": [w.threads for w in weights]}),
    )
    for axes, (title, lines) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for label, values in lines.items():
            axes.plot(minutes, values, label=label, linewidth=1)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("minutes")
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.legend(frameon=False)
    figure.suptitle(f"Everything at once for {minutes[-1]:.0f} minutes: {pictures:,} pictures", x=0.01, ha="left")
    save(figure, file)


@pytest.mark.parametrize(("kills", "longest"), [(3, 2.0), long(50, 10.0, limit=1800)])
def test_kills_at_random_moments_under_mixed_load_lose_nothing_and_answer_nothing_twice(
    mixed_server, directs, kills, longest
):
    """Some of them hit an engine that starts; many such in a row would be a start that never works, and wait longer."""
    server = mixed_server
    died = server.metric("gradless_engine_restarts_total", device="cpu", reason="SIGKILL")
    before = server.settled("gradless_requests_total")
    sent_again = server.settled("gradless_replayed_requests_total")
    mixed = everything(server, directs, 1700, may_be_unready=True)
    load = threading.Thread(target=mixed.run)
    load.start()
    moments = random.Random(kills)
    try:
        for _ in range(kills):
            engine = server.engine()
            threading.Event().wait(moments.uniform(0.0, longest))  # a random moment is what is tested
            os.kill(engine, signal.SIGKILL)
            wait_for(lambda dead=engine: server.pids("gradless: engine") not in ([], [dead]), 60, "a new engine")
        wanted = len(mixed.answered) + 50
        wait_for(lambda: len(mixed.answered) >= wanted or mixed.errors, 60, "answers after the last kill")
    finally:
        mixed.stop()
        load.join(90)
    restarts = server.metric("gradless_engine_restarts_total", device="cpu", reason="SIGKILL") - died
    counted = server.settled("gradless_requests_total") - before
    replayed = server.metric("gradless_replayed_requests_total") - sent_again
    print(
        f"{kills} kills; {len(mixed.answered)} requests answered and {counted:.0f} counted by the server, "
        f"{replayed:.0f} sent again, {len(mixed.errors)} lost or wrong"
    )
    assert mixed.errors == []
    assert replayed > 0
    assert restarts == kills
    assert counted == len(mixed.answered)


@pytest.mark.parametrize("kills", [1, long(10, limit=900)])
def test_e1_the_default_model_serves_on_over_kills_of_its_engine(mixed_server, directs, kills):
    server = mixed_server
    died = server.metric("gradless_engine_restarts_total", device="cpu", reason="SIGKILL")
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
    traffic.assert_all_right(directs["efficientnet_lite0"])
    assert server.metric("gradless_engine_restarts_total", device="cpu", reason="SIGKILL") - died == kills


def killed_to_answer(traffic: Traffic, killed: float) -> float:
    """Seconds without an answer: what the dead engine had sent before it died comes in the first few milliseconds."""
    return traffic.wait_for_answer_after(killed + 0.05) + 0.05
