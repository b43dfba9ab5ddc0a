"""deploy/compose.yaml against the specification's own schema, and against what the other files of deploy/ say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service.settings import Settings
from service.supervisor.lives import ENGINE_DRAIN_SECONDS
from tests.support.kubectl import render

DEPLOY = Path(__file__).parents[2] / "deploy"
FILE = DEPLOY / "compose.yaml"
CHECK = Path(sys.executable).with_name("check-jsonschema")


@pytest.fixture
def services() -> dict:
    return yaml.safe_load(FILE.read_text())["services"]


def check(file: Path) -> subprocess.CompletedProcess[str]:
    command = [CHECK, "--builtin-schema", "vendor.compose-spec", file]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_it_is_what_the_compose_specification_allows(tmp_path):
    assert check(FILE).returncode == 0
    broken = tmp_path / "compose.yaml"
    broken.write_text(FILE.read_text().replace("mem_limit", "memory_limit"))
    assert "memory_limit" in check(broken).stdout


def test_every_folder_that_it_mounts_is_there(services):
    mounts = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])]
    files = [mount for mount in mounts if mount.startswith(".")]
    assert len(files) == 4
    assert [mount for mount in files if not (DEPLOY / mount).exists()] == []
    assert (DEPLOY / services["gradless"]["build"]["context"] / "Dockerfile").is_file()


def test_prometheus_scrapes_the_service_where_it_tells_its_metrics(services):
    [scrape] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    port = services["gradless"]["environment"]["GRADLESS_OPERATIONS_PORT"]
    assert scrape["static_configs"] == [{"targets": [f"gradless:{port}"]}]
    assert all(not published.endswith(f":{port}") for published in services["gradless"]["ports"])


def test_grafana_finds_prometheus_and_its_files_where_its_provisioning_looks(services):
    grafana = services["grafana"]
    assert grafana["environment"]["GRADLESS_PROMETHEUS_URL"] == "http://prometheus:9090"
    [provider] = (DEPLOY / "grafana" / "provisioning" / "dashboards").glob("*.yml")
    path = yaml.safe_load(provider.read_text())["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{path}:ro" in grafana["volumes"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{path}/gradless.json"


def test_it_has_the_limits_and_the_security_that_the_manifest_has(services):
    [deployment] = [each for each in render("cpu") if each["kind"] == "Deployment"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    gradless = services["gradless"]
    assert container["resources"]["limits"] == {"cpu": str(gradless["cpus"]), "memory": "2Gi"}
    assert gradless["mem_limit"] == "2g"
    assert gradless["cap_drop"] == ["ALL"]
    assert gradless["read_only"] is True
    assert "no-new-privileges:true" in gradless["security_opt"]


def test_it_is_given_the_time_to_drain(services):
    # As service/supervisor/tree.py waits: the delay, the drain and 2 s, then the engines and 1 s.
    drain = Settings().drain_delay_seconds + Settings().drain_limit_seconds + 2 + ENGINE_DRAIN_SECONDS + 1
    assert int(services["gradless"]["stop_grace_period"].rstrip("s")) > drain
