"""What is shipped for Prometheus, held against promtool and against the metrics that there are."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.prometheus import MISSING, SHIPPED, is_missing, shipped_alerts, shipped_rules, shorten_rules

pytestmark = pytest.mark.skipif(is_missing(), reason=MISSING)

RULES = sorted((SHIPPED / "rules").glob("*.yml"))
TESTS = sorted((SHIPPED / "tests").glob("*.yml"))
ALERTS = shipped_alerts()
#: In an alert's expression, with what it is compared to.
COMPARISON = re.compile(r"(?:>|==) [\d.]+(?: \* [\d.]+)?")


#: Less of the collector, which is a good part of promtool's time.
QUICKER = os.environ | {"GOGC": "800"}


def promtool(*words: object) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=QUICKER)


def assert_fine(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_and_the_rules_it_names_are_in_order():
    checked = promtool("check", "config", SHIPPED / "prometheus.yml")
    assert_fine(checked)
    assert f"{len(RULES)} rule files found" in checked.stdout


def test_the_rules_are_in_order():
    assert_fine(promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES))


def test_the_rules_do_what_their_unit_tests_say():
    assert_fine(promtool("test", "rules", *TESTS))


@functools.cache
def looked_at() -> list[tuple[str, bool]]:
    """Each expression of the unit tests, and whether it is said to have a value."""
    groups = [group for file in TESTS for group in yaml.safe_load(file.read_text())["tests"]]
    return [(test["expr"], bool(test.get("exp_samples"))) for group in groups for test in group["promql_expr_test"]]


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(alert):
    cases = {has_value for expression, has_value in looked_at() if f'alertname="{alert}"' in expression}
    assert cases == {True, False}


@pytest.mark.parametrize("record", [rule["record"] for rule in shipped_rules() if "record" in rule])
def test_every_recording_rule_has_a_case_that_says_its_value(record):
    assert any(record in expression and has_value for expression, has_value in looked_at())


def without_conditions(folder: Path, instead: str) -> Path:
    """A copy of what is shipped in which the condition of every alert always holds, or never."""
    shutil.copytree(SHIPPED, folder)
    for file in (folder / "rules").glob("*.yml"):
        content = yaml.safe_load(file.read_text())
        for rule in (rule for group in content["groups"] for rule in group["rules"]):
            before = rule["expr"]
            assert "ALERTS" not in before  # no alert's cases see another's condition
            if "alert" in rule:
                rule["expr"] = COMPARISON.sub("> -1" if instead == "always" else "> 1e12", before)
                assert rule["expr"] != before
                if rule["alert"] == "GradlessDown" and instead == "never":
                    rule["expr"] = rule["expr"].replace("or absent", "and absent")
        file.write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(scope="module")
def noticed(tmp_path_factory) -> dict[str, set[str]]:
    """By what became of their conditions, the alerts of which a case of the unit tests has failed."""
    folder, running = tmp_path_factory.mktemp("alerts"), {}
    for instead in ("always", "never"):
        files = sorted((without_conditions(folder / instead, instead) / "tests").glob("*.yml"))
        command = ["promtool", "test", "rules", *map(str, files)]
        running[instead] = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=QUICKER
        )
    found = {}
    for instead, process in running.items():
        said, _ = process.communicate(timeout=120)
        assert process.returncode != 0
        failed = re.findall(r"^ +expr: (\".+\"), time: \w+,$", said, re.MULTILINE)
        found[instead] = set(re.findall(r'alertname="(\w+)"', " ".join(map(json.loads, failed))))
    return found


@pytest.mark.parametrize("instead", ["always", "never"])
@pytest.mark.parametrize("alert", ALERTS)
def test_the_unit_tests_notice_an_alert_whose_condition_is_gone(noticed, alert, instead):
    assert alert in noticed[instead]
    assert len([file for file in TESTS if f'"{alert}"' in file.read_text()]) == 1


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_how_bad_it_is_what_it_is_and_what_to_do(alert):
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["annotations"]["summary"]
    assert len(rule["annotations"]["description"].split()) > 15
    assert rule["annotations"]["runbook"] == f"docs/deploy.md#{alert.lower()}"


@pytest.fixture(scope="module")
def served_names() -> dict[str, set[str]]:
    """The names under which /metrics tells each metric, with its labels. A child asks: Metrics sets what is global."""
    code = (
        "from service.host.metric_memory import make_metric_memory\n"
        "from service.metrics import Metrics\n"
        "for each in vars(Metrics('asked', make_metric_memory())).values():\n"
        "    print(each._type, each._name, *each._labelnames)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    endings = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    names = {}
    for kind, name, *labels in map(str.split, done.stdout.splitlines()):
        names |= {name + ending: {*labels, *(["le"] if ending == "_bucket" else [])} for ending in endings[kind]}
    return names


def test_every_metric_that_rules_ask_for_exists_with_the_labels_they_ask_for(served_names):
    recorded = {rule["record"] for rule in shipped_rules() if "record" in rule}
    asked = set()
    for rule in shipped_rules():
        for name, matchers in re.findall(r"((?:[a-z_]+:)?gradless_[a-z0-9_:]+)(?:\{([^}]*)\})?", rule["expr"]):
            asked.add(name)
            if name in recorded:
                continue
            assert name in served_names, f"{name}: there is no such metric"
            assert set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", matchers)) <= served_names[name], name
    scalers = "".join(file.read_text() for file in (SHIPPED.parent / "kubernetes").glob("overlays/[ak]*/*.yaml"))
    unasked = {name for name in recorded - asked if name not in scalers}
    assert unasked == set(), "recorded and asked for by no rule and no scaler"


def test_shortening_touches_durations_and_nothing_else():
    text = """
groups:
  - name: some
    rules:
      - {record: 'a:b:rate5m', expr: 'rate(x_total{le="0.5"}[5m]) > 14.4 * 0.01 unless y:z:ratio_rate1h offset 10m'}
      - {alert: A, expr: 'x > 0', for: 2m, labels: {severity: page}, annotations: {summary: for 5m}}
"""
    first, second = yaml.safe_load(shorten_rules(text, 100))["groups"][0]["rules"]
    assert first == {
        "record": "a:b:rate5m",
        "expr": 'rate(x_total{le="0.5"}[3000ms]) > 14.4 * 0.01 unless y:z:ratio_rate1h offset 6000ms',
    }
    assert second["for"] == "1200ms"
    assert second["annotations"] == {"summary": "for 5m"}
