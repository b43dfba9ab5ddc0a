"""The image, built and run: as the manifest's Deployment, under its limits, and two of it behind a proxy."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.support.containers import (
    MISSING,
    ROOT,
    Container,
    Pod,
    build,
    containers,
    is_missing,
    optimization,
    podman,
)
from tests.support.models import SHIPPED, assert_right, direct, photographs
from tests.support.prometheus import Prometheus
from tests.support.prometheus import is_missing as is_prometheus_missing
from tests.support.proxy import HAPROXY, OF_THE_OTHER, proxy, wait_for_up
from tests.support.server import wait_for
from tests.support.traffic import JPEG, Traffic

pytestmark = [pytest.mark.deploy, pytest.mark.skipif(is_missing(), reason=MISSING), pytest.mark.timeout(1800)]
needs_proxy = pytest.mark.skipif(not HAPROXY, reason="Debian's package haproxy is not installed")

MODEL = "efficientnet_lite0"
#: Name, version, and for which platforms if not for all.
PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)(?: *; *([^\\\n]+))?", re.MULTILINE)


@pytest.fixture(scope="module")
def image() -> str:
    return build()


@pytest.fixture(scope="module")
def container(image) -> Iterator[Container]:
    with Container() as running:
        yield running


@pytest.fixture(scope="module")
def pod(image, tmp_path_factory) -> Iterator[Pod]:
    with Pod(tmp_path_factory.mktemp("pod")) as running:
        yield running


@pytest.fixture(scope="module")
def model():
    return direct(SHIPPED, MODEL)


def test_it_says_what_it_is_and_how_it_is_run(image):
    [told] = json.loads(podman("image", "inspect", image))
    configuration = told["Config"]
    assert configuration["User"] == "10001"
    assert configuration["Entrypoint"] == ["tini", "--", "gradless"]
    assert configuration["Cmd"] == ["serve"]
    assert told["HealthCheck" if "HealthCheck" in told else "Healthcheck"]["Test"][0] == "CMD"
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in configuration["Labels"].items()}
    assert labels.keys() >= {"title", "description", "licenses", "version", "revision", "created"}
    assert len(labels["revision"]) == 40
    print(f"the image's size: {told['Size'] / 1e9:.2f} GB")


def test_it_has_no_compiler_no_cache_of_pips_and_nothing_that_its_user_can_write(container):
    script = """
        for tool in gcc g++ cc c++ ld make curl; do command -v $tool; done
        find /opt /home -name '*.whl' 2>/dev/null
        find / -xdev -writable -not -type l -not -path '/proc/*' -not -path '/tmp*' -not -path '/dev/*' 2>/dev/null
        true
    """
    found = container.execute("sh", "-c", script).split()
    found += podman("exec", "--user", "0", container.name, "sh", "-c", "find / -xdev -path '*/pip/http*'").split()
    # Where anybody may write, were the file system not read-only.
    assert [path for path in found if not re.match(r"/(tmp|var/tmp|run/lock|var/lock|dev)$", path)] == []


def test_its_bill_of_materials_has_each_version_of_the_locks(container):
    bill = json.loads(container.execute("cat", "/opt/gradless/sbom.cdx.json"))
    have = {part["name"].lower().replace("_", "-").replace(".", "-"): part["version"] for part in bill["components"]}
    locks = "".join(file.read_text() for file in sorted((ROOT / "deploy").glob("requirements*.lock")))
    wanted = [(name.lower().replace("_", "-").replace(".", "-"), *rest) for name, *rest in PINNED.findall(locks)]
    assert len(wanted) > 50
    assert {name for name, _, marker in wanted if not marker} - have.keys() == set()
    for name in {name for name, _, _ in wanted} & have.keys():
        assert have[name] in {version for other, version, _ in wanted if other == name}
    assert "gradless" in have


def test_the_compiled_package_that_is_in_it_answers(container, model):
    assert optimization(container) == "compiled"
    answer = httpx.post(f"{container.url}/predict", content=photographs()[0], headers=JPEG, timeout=60)
    assert answer.status_code == 200, answer.text
    assert_right(answer.json(), model, photographs()[0])
    assert [line for line in container.log() if line["level"] in ("warning", "error")] == []


def test_with_a_cache_that_it_can_write_it_compiles_behind_serving(image):
    """As on another model of processor than the image was built on, or with models of one's own."""
    with Container("--env", "GRADLESS_CACHE=/tmp/gradless") as container:
        assert optimization(container) in ("pending", "compiled")
        wait_for(lambda: optimization(container) == "compiled", 240, "the package answers")
        [told] = [line for line in container.log() if line["event"] == "optimised"]
        assert re.match("openvino(, in pieces)? takes ", told["detail"])
        assert "there is no g++ on the PATH" in told["detail"]


def test_its_health_check_passes(container):
    podman("healthcheck", "run", container.name)


def test_a_health_check_of_a_server_that_is_not_ready_fails(image):
    with Container("--env", "GRADLESS_DRAIN_DELAY_SECONDS=20") as leaving:
        podman("kill", "--signal", "TERM", leaving.name)
        wait_for(lambda: not leaving.is_ready(), 10, "it is not ready")
        with pytest.raises(AssertionError):
            podman("healthcheck", "run", leaving.name)


def test_the_rendered_deployment_answers_as_a_direct_forward_does(pod, model):
    assert optimization(pod) == "compiled"
    for picture in photographs():
        answer = httpx.post(f"{pod.url}/predict", content=picture, headers=JPEG, timeout=60)
        assert_right(answer.json(), model, picture)
    proof = httpx.get(f"{pod.operations}/models/{MODEL}/proof", timeout=30).json()
    assert proof["passed"]


def test_the_kernel_holds_it_to_what_the_manifest_says(pod):
    container = pod.deployment["spec"]["template"]["spec"]["containers"][0]
    status = dict(re.findall(r"^(\w+):\s+(.*)$", pod.execute("cat", "/proc/1/status"), re.MULTILINE))
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"  # a filter
    assert status["Uid"].split() == ["10001"] * 4
    limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    assert container["resources"]["limits"]["memory"].endswith("Gi")
    assert int(pod.execute("sh", "-c", limit)) == int(container["resources"]["limits"]["memory"][:-2]) << 30
    touch = "for at in / /opt/gradless /models/* /etc /tmp; do touch $at/x 2>/dev/null && echo $at; done; true"
    written = pod.execute("sh", "-c", touch)
    assert written.split() == [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]


@pytest.mark.skipif(is_prometheus_missing(), reason="Debian's package prometheus is not installed")
def test_a_real_prometheus_scrapes_it(pod):
    with Prometheus([pod.operations.removeprefix("http://")], 10) as prometheus:
        prometheus.started()
        assert [sample["value"][1] for sample in prometheus.query("gradless_self_check_passed")] == ["1"]
        [limit] = prometheus.query("gradless_memory_limit_bytes")
        container = pod.deployment["spec"]["template"]["spec"]["containers"][0]
        assert int(float(limit["value"][1])) == int(container["resources"]["limits"]["memory"][:-2]) << 30


def test_sigterm_under_load_loses_nothing_and_ends_well(image, model):
    with Container() as leaving, Traffic(leaving, 8) as traffic:
        traffic.wait_for_answers(40)
        assert leaving.stop() == 0
        traffic.stop()
        traffic.assert_all_right(model)
        assert leaving.log()[-1]["event"] == "stopped"
        assert leaving.log()[-1]["in_time"] is True


@needs_proxy
def test_a_rolling_restart_of_two_replicas_behind_a_proxy_fails_no_request(image, model, tmp_path):
    with containers() as replicas, proxy(tmp_path, *(each.port for each in replicas)) as front:
        with Traffic(front, 8) as traffic:
            for name, replica in zip("ab", replicas, strict=True):
                traffic.wait_for_answers(40)
                assert replica.stop() == 0
                podman("start", replica.name)
                wait_for_up(front.url, name, 120)
            traffic.wait_for_answers(40)
        traffic.assert_all_right(model)
        print(f"{len(traffic.answers)} answered over two restarts, 0 failed")


#: It takes memory, far less than an engine has, says so, and holds it for longer than the test takes.
HOG = """
import time
held = bytearray(b"x" * (100 << 20))
print("full", flush=True)
time.sleep(300)
"""


def end_hogs() -> None:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if HOG in process.cmdline():
                process.kill()


def kills(container: Container) -> int:
    """How often the kernel ended a process for the container's limit."""
    script = "cat /sys/fs/cgroup/memory/memory.oom_control 2>/dev/null || cat /sys/fs/cgroup/memory.events"
    found = re.search(r"^oom_kill (\d+)$", container.execute("sh", "-c", script), re.MULTILINE)
    assert found
    return int(found[1])


def start_hog(container: Container) -> subprocess.Popen[str]:
    """One that has its memory, or was killed for it."""
    command = ["podman", "exec", container.name, "python3", "-c", HOG]
    hog = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert hog.stdout
    hog.stdout.readline()
    return hog


def has_replaced(container: Container) -> bool:
    return container.metric("gradless_engine_restarts_total") >= 1


@needs_proxy
def test_at_its_memory_limit_an_engine_is_killed_replaced_and_no_request_is_lost_at_the_proxy(image, model, tmp_path):
    with (
        containers("--restart", "always") as replicas,
        proxy(tmp_path, *(r.port for r in replicas), OF_THE_OTHER) as front,
    ):
        short = replicas[0]
        with Traffic(front, 8) as traffic:
            traffic.wait_for_answers(40)
            hogs = []
            try:
                while not kills(short):  # others in the container take what there is, until nothing is left
                    assert len(hogs) < 20
                    hogs.append(start_hog(short))
            finally:
                end_hogs()
                for hog in hogs:
                    hog.communicate(timeout=60)
            wait_for(lambda: has_replaced(short), 60, "an engine is replaced")
            wait_for_up(front.url, "a")
            traffic.wait_for_answers(40)
        # While the engine ends, more may be asked: then the fork server goes too, which costs no connection.
        events = {line["event"] for line in short.log()}
        assert "engine died" in events
        assert "front end died" not in events
        traffic.assert_all_right(model)
        print(f"{len(traffic.answers)} answered, {kills(short)} processes killed at the limit, 0 failed")


def first_process(container: Container) -> int:
    """Its pid on this machine; 0 while there is none."""
    return int(podman("inspect", container.name, "--format", "{{.State.Pid}}"))


@needs_proxy
def test_a_container_that_is_killed_is_restarted_and_no_request_is_lost_at_the_proxy(image, model, tmp_path):
    with (
        containers("--restart", "always") as replicas,
        proxy(tmp_path, *(r.port for r in replicas), OF_THE_OTHER) as front,
    ):
        with Traffic(front, 8) as traffic:
            traffic.wait_for_answers(40)
            first = first_process(replicas[0])
            subprocess.run(["kill", "-9", str(first)], check=True)
            wait_for(lambda: first_process(replicas[0]) not in (0, first), 60, "another first process")
            wait_for_up(front.url, "a", 120)
            traffic.wait_for_answers(40)
        traffic.assert_all_right(model)
        print(f"{len(traffic.answers)} answered, one container killed, 0 failed")
