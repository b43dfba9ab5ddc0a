"""The dashboard that is shipped, held against Grafana's own types and against a real Prometheus.

There is no Grafana here: what it would ask for each panel is asked as it would be, with its variables put in.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.support.cgroup import Cgroup
from tests.support.coloured import CARD, ask, make_coloured
from tests.support.models import photographs
from tests.support.prometheus import MISSING, Prometheus, is_missing
from tests.support.server import Server, wait_for
from tests.support.traffic import JPEG, Traffic

SHIPPED = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARD = json.loads((SHIPPED / "dashboards" / "gradless.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
QUERIES = [pytest.param(target["expr"], id=f"{title}, {target['refId']}") for title, target in TARGETS]
#: Ten minutes are one, so that a restart is still within them when its panel's turn comes.
FACTOR = 10

CODE = """\
from torch import nn


def NAME():
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
"""
WAIVER = '[proof]\nwaive = { batch-invariant = "so that there is a waiver to be shown" }\n'


def lost(before: object, after: object, place: str = "") -> Iterator[str]:
    """Each place at which something of `before` is missing or another in `after`; more may be there."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from lost(value, after.get(key, "nothing"), f"{place}/{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from lost(one, other, f"{place}/{number}")
    elif before != after:
        yield f"{place}: {before} became {after}"


def test_grafanas_own_types_know_every_key_and_lose_none():
    assert list(lost(DASHBOARD, json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD))))) == []


def test_it_is_found_under_its_uid_and_each_panel_under_its_own_id():
    assert DASHBOARD["uid"] == "gradless"
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identities)) == len(identities)


def test_it_asks_for_the_data_source_the_instance_and_the_model():
    variables = {variable["name"]: variable["type"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource": "datasource", "instance": "query", "model": "query"}
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}
    assert {target["datasource"]["uid"] for _, target in TARGETS} == {"${datasource}"}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows_and_in_what_unit(panel):
    assert panel["title"]
    assert len(panel["description"].split()) >= 5
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    assert all(target["legendFormat"] for target in panel["targets"])


def test_no_two_panels_overlap_and_none_leaves_the_page():
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        place = panel["gridPos"]
        across, down = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        assert across.start >= 0
        assert across.stop <= 24
        return set(itertools.product(across, down))

    for one, other in itertools.combinations(DASHBOARD["panels"], 2):
        assert not cells(one) & cells(other), f"{one['title']} and {other['title']}"


def test_what_is_provisioned_is_the_source_and_the_folder_that_the_dashboard_needs():
    sources = yaml.safe_load((SHIPPED / "provisioning" / "datasources" / "prometheus.yml").read_text())
    assert [(source["type"], source["url"]) for source in sources["datasources"]] == [
        ("prometheus", "${GRADLESS_PROMETHEUS_URL}")
    ]
    providers = yaml.safe_load((SHIPPED / "provisioning" / "dashboards" / "gradless.yml").read_text())
    assert [provider["type"] for provider in providers["providers"]] == ["file"]
    assert providers["providers"][0]["options"]["path"]


def put_in(expression: str, **variables: str) -> str:
    """The query that Grafana sends; `rate_interval` is a minute."""
    for name, value in {"__rate_interval": "60s", "instance": ".*", "model": ".*", **variables}.items():
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression, f"a variable that the dashboard does not have: {expression}"
    return expression


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has scraped a server that has been through a little of everything that the dashboard shows."""
    models = make_coloured(tmp_path_factory.mktemp("dashboard") / "models", "one", CODE.replace("NAME", "one"))
    make_coloured(models, "waived", CODE.replace("NAME", "waived"))
    (models / "waived" / "model.toml").write_text(CARD.format(name="waived") + WAIVER)
    cgroup = Cgroup.make()
    try:
        with cgroup.entered() if cgroup else contextlib.nullcontext():
            server = Server(models, "--default-model", "one")
        with server, Prometheus([f"127.0.0.1:{server.started().port}"], FACTOR) as scraping:
            scraping.started()
            live_a_little(server)
            yield scraping
    finally:
        if cgroup:
            cgroup.remove()


def live_a_little(server: Server) -> None:
    """Traffic for both models, a refusal, and an engine that is killed with a request aboard."""
    with Traffic(server, 2, pause=0.05) as traffic:
        traffic.wait_for_answers(30)
    url = f"{server.url}/models/waived/predict"
    assert httpx.post(url, content=photographs()[0], headers=JPEG).status_code == 200
    assert httpx.post(url, content=b"no picture", headers=JPEG).status_code == 422
    engine = server.engine()
    os.kill(engine, signal.SIGSTOP)
    waiting = threading.Thread(target=ask, args=(server, (9, 9, 9)))
    waiting.start()
    wait_for(lambda: server.metric("gradless_requests_in_flight", model="one") == 1, 10, "a request in the engine")
    os.kill(engine, signal.SIGKILL)
    waiting.join(60)
    wait_for(lambda: server.metric("gradless_replayed_requests_total") >= 1, 10, "the request sent again")
    with Traffic(server, 2, pause=0.05) as traffic:  # so that what appeared has been scraped more than once
        traffic.wait_for_answers(30)


@pytest.mark.skipif(is_missing(), reason=MISSING)
@pytest.mark.parametrize("expression", QUERIES)
def test_every_query_of_every_panel_gives_data(prometheus, expression):
    asked = put_in(expression)

    def numbers() -> list[str]:
        values = [series["value"][1] for series in prometheus.query(asked)]
        return [value for value in values if value not in ("NaN", "+Inf", "-Inf")]

    if "gradless_memory_" in asked and not prometheus.query("gradless_memory_limit_bytes"):
        pytest.skip("no cgroup with a memory limit can be made here, so there is no limit to show")
    wait_for(numbers, 15, f"data for {asked}")


@pytest.mark.skipif(is_missing(), reason=MISSING)
@pytest.mark.parametrize("expression", QUERIES)
def test_a_panel_shows_nothing_of_a_model_and_an_instance_that_were_not_chosen(prometheus, expression):
    assert prometheus.query(put_in(expression, instance="elsewhere", model="elsewhere")) == []


@pytest.mark.skipif(is_missing(), reason=MISSING)
def test_the_variables_offer_what_there_is(prometheus):
    offered = {}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]).groups()
            offered[variable["name"]] = {found["metric"][label] for found in prometheus.query(put_in(series))}
    assert offered["model"] == {"one", "waived"}
    assert len(offered["instance"]) == 1
