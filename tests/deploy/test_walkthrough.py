"""docs/deploy.md, done as it says: its commands marked `sh`, in their order, in a clone.

There is no docker here: `docker` is a script that does the same by buildah, podman and podman-compose, in the host's
network, since podman's own needs more than a test may install.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sklearn

from tests.support.containers import BASE, MISSING, ROOT, SETTINGS, is_missing, make_base, podman, run

pytestmark = [pytest.mark.deploy, pytest.mark.skipif(is_missing(), reason=MISSING), pytest.mark.timeout(1800)]

DOCUMENT = ROOT / "docs" / "deploy.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
PORTS = (8000, 9000, 9090)
CONTAINERS = ("gradless", "gradless_gradless_1", "gradless_prometheus_1")
VOLUMES = {"gradless_prometheus", "gradless_grafana"}

DOCKER = """\
#!/bin/bash
# docker, by what is here.
set -eu
case "$1" in
    build) exec buildah bud --isolation chroot --format docker --layers --build-arg BASE={base} "${{@:2}}" ;;
    run) exec podman run --network host --env GRADLESS_HOST=127.0.0.1 "${{@:2}}" ;;
    compose)
        # No Grafana in the package registries.
        last=()
        for word in "$@"; do if [ "$word" = up ]; then last=(gradless prometheus); fi; done
        exec {compose} --in-pod=false "${{@:2:2}}" --file {override} "${{@:4}}" "${{last[@]}}" ;;
    *) exec podman "$@" ;;
esac
"""
PODMAN = """\
#!/bin/bash
set -eu
if [ "$1 $2" = "play kube" ] && [ -f "$3" ]; then
    PYTHONPATH={root} {python} -m tests.support.containers <"$3" >"$3.here"
    exec {podman} play kube "$3.here"
fi
exec {podman} "$@"
"""
OVERRIDE = """\
services:
  gradless:
    network_mode: host
    environment: {GRADLESS_HOST: 127.0.0.1}
  prometheus:
    image: localhost/gradless-prometheus:local
    network_mode: host
    extra_hosts: ["gradless:127.0.0.1"]
    user: root
"""
PROMETHEUS = f"""\
FROM {BASE}
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus >/dev/null && mkdir /prometheus
ENTRYPOINT ["prometheus"]
"""


def in_use() -> list[int]:
    """The document's ports that somebody listens on."""
    found = []
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                found.append(port)
    return found


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A clone with a photograph, and the environment of its reader; leaves no container."""
    if taken := in_use():
        pytest.skip(f"the document's ports {taken} are in use on this machine")
    there = podman("ps", "--all", "--format", "{{.Names}}").split() + podman("volume", "ls", "--quiet").split()
    if somebodys := {*CONTAINERS, *VOLUMES} & set(there):
        pytest.skip(f"there are {somebodys} on this machine, which the document would use")
    folder = tmp_path_factory.mktemp("reader")
    make_base()
    (folder / "Prometheus").write_text(PROMETHEUS)
    (folder / "override.yaml").write_text(OVERRIDE)
    image = ("--tag", "localhost/gradless-prometheus:local", "--file", folder / "Prometheus", folder)
    run("buildah", "bud", "--isolation", "chroot", "--format", "docker", "--layers", *image, limit=600)
    (folder / "bin").mkdir()
    tools = Path(sys.executable).parent
    script = DOCKER.format(base=BASE, compose=tools / "podman-compose", override=folder / "override.yaml")
    (folder / "bin" / "docker").write_text(script)
    script = PODMAN.format(root=ROOT, python=sys.executable, podman=shutil.which("podman"))
    (folder / "bin" / "podman").write_text(script)
    for each in (folder / "bin").iterdir():
        each.chmod(0o755)
    repository = folder / "gradless"
    files = run("git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, repository / name)
    shutil.copy(Path(sklearn.__file__).parent / "datasets" / "images" / "flower.jpg", repository)
    path = f"{folder / 'bin'}:{tools}:{os.environ['PATH']}"
    yield repository, os.environ | {"PATH": path, "CONTAINERS_CONF": str(SETTINGS)}
    podman("pod", "rm", "--force", "--ignore", "gradless-pod-0", "gradless-pod")
    for name in CONTAINERS:
        podman("rm", "--force", "--ignore", "--time", "0", name)
    for volume in VOLUMES & set(podman("volume", "ls", "--quiet").split()):
        podman("volume", "rm", volume)


def test_it_has_commands_to_run():
    commands = "\n".join(BLOCKS)
    for wanted in ("docker build", "docker run", "docker compose", "kubectl kustomize", "podman play kube", "/predict"):
        assert wanted in commands


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=lambda number: BLOCKS[number].split("\n")[0][:60])
def test_its_commands_do_what_it_says(clone, number):
    repository, environment = clone
    script = f"set -euo pipefail\n{BLOCKS[number]}"
    with (repository / "output").open("w") as output:
        done = subprocess.run(
            ["bash", "-c", script], cwd=repository, env=environment, stdout=output, stderr=output, timeout=1500
        )
    told = (repository / "output").read_text()
    assert done.returncode == 0, told[-4000:]
    if "/predict" in BLOCKS[number]:
        [answer] = re.findall(r'\{"model":.*\}', told)
        assert json.loads(answer)["predictions"][0]["classes"][0]["label"] == "daisy"
