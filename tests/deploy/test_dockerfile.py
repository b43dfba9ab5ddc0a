"""The Dockerfile, read and linted; tests/deploy/test_image.py builds and runs it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_last_stage_runs_as_a_numeric_user_that_is_not_root():
    users = re.findall(r"^USER (\S+)$", TEXT, re.MULTILINE)
    assert users
    assert int(users[-1]) > 0


def test_every_stage_stands_on_one_exchangeable_base():
    named = ["${BASE}", *re.findall(r"^FROM \S+ AS (\S+)$", TEXT, re.MULTILINE)]
    assert set(re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE)) <= set(named)
    assert re.findall(r"^FROM (\S+)$", TEXT, re.MULTILINE) == ["${BASE}"]  # the last takes nothing from the others
    assert TEXT.index("ARG BASE=") < TEXT.index("FROM")


def test_the_health_check_needs_no_curl():
    check = TEXT[TEXT.index("HEALTHCHECK") :]
    assert "curl" not in check
    assert "urllib" in check
    assert "/health/ready" in check


@pytest.mark.parametrize(("stated", "port"), [(None, 8000), ("9000", 9000), ("tcp://10.0.0.1:8000", 8000)])
def test_the_health_check_asks_the_port_that_is_served_whatever_a_link_says(monkeypatch, stated, port):
    asked = []
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: asked.append(url))
    monkeypatch.delenv("GRADLESS_PORT", raising=False)
    if stated:
        monkeypatch.setenv("GRADLESS_PORT", stated)
    command = TEXT[TEXT.index("HEALTHCHECK") :].split("CMD ", 1)[1].split("\n", 1)[0]
    exec(json.loads(command)[2], {})
    assert asked == [f"http://127.0.0.1:{port}/health/ready"]
