"""A real Prometheus with what is shipped in deploy/prometheus, in which only times and targets are others."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import tempfile
from pathlib import Path
from shutil import which
from typing import Any

import httpx
import yaml

from tests.support.server import wait_for

SHIPPED = Path(__file__).parents[2] / "deploy" / "prometheus"
MISSING = "prometheus and promtool are missing; make test installs them (Debian package prometheus)"
SCRAPE = "500ms"
#: As they are written in shipped rules: 30s, 5m, 1h.
DURATION = re.compile(r"\b(\d+)([smh])\b")
MILLISECONDS = {"s": 1000, "m": 60_000, "h": 3_600_000}


def is_missing() -> bool:
    return not (which("prometheus") and which("promtool"))


def shipped_rules() -> list[dict[str, Any]]:
    """Every rule that is shipped, recording and alerting."""
    files = sorted((SHIPPED / "rules").glob("*.yml"))
    return [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def shipped_alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in shipped_rules() if "alert" in rule}


def shorten(text: str, factor: int) -> str:
    """The same with each duration a `factor`th; names of recording rules, such as `…:ratio_rate5m`, hold none."""
    return DURATION.sub(lambda found: f"{int(found[1]) * MILLISECONDS[found[2]] // factor}ms", text)


def shorten_rules(text: str, factor: int) -> str:
    """A rules file whose windows, offsets and `for` are a `factor`th; nothing else is touched."""
    content = yaml.safe_load(text)
    for group in content["groups"]:
        for rule in group["rules"]:
            for key in rule.keys() & {"expr", "for"}:
                rule[key] = shorten(rule[key], factor)
    return yaml.safe_dump(content, sort_keys=False)


class Prometheus:
    """A process on a free port that scrapes these targets with the shipped configuration.

    Args:
        targets: `host:port` of servers.
        factor: by which each duration of the rules is divided.
    """

    def __init__(self, targets: list[str], factor: int) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="gradless-prometheus-")
        self._folder = Path(self._temporary.name)
        self._write_configuration(targets, factor)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._client = httpx.Client(base_url=f"http://{address}/api/v1", timeout=10)
        with (self._folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={address}",
                ],
                stdout=log,
                stderr=log,
            )

    def _write_configuration(self, targets: list[str], factor: int) -> None:
        configuration = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
        configuration["global"] = {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE, "evaluation_interval": SCRAPE}
        configuration["scrape_configs"][0]["static_configs"] = [{"targets": targets}]
        (self._folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        (self._folder / "rules").mkdir()
        for file in (SHIPPED / "rules").glob("*.yml"):
            (self._folder / "rules" / file.name).write_text(shorten_rules(file.read_text(), factor))

    def started(self) -> Prometheus:
        """Wait until it has scraped every target."""
        wait_for(self._is_scraping, 30, f"prometheus scrapes; its log: {self._folder / 'log'}")
        return self

    def _is_scraping(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError("prometheus ended while starting:\n" + (self._folder / "log").read_text())
        with contextlib.suppress(httpx.TransportError, ValueError):  # it says 503 in plain text while it starts
            targets = self._get("targets")["activeTargets"]
            return bool(targets) and all(target["health"] == "up" for target in targets)
        return False

    def _get(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(path, params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What it gives now: a list of `{"metric": labels, "value": [time, text]}`."""
        return self._get("query", query=expression)["result"]

    def alerts(self, name: str, **labels: str) -> list[dict[str, Any]]:
        """The alerts of this name that fire and have these labels."""
        return [
            alert
            for alert in self._get("alerts")["alerts"]
            if alert["state"] == "firing" and {"alertname": name, **labels}.items() <= alert["labels"].items()
        ]

    def firing(self) -> set[str]:
        return {alert["labels"]["alertname"] for alert in self._get("alerts")["alerts"] if alert["state"] == "firing"}

    def stop(self) -> None:
        self._client.close()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self._temporary.cleanup()

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
