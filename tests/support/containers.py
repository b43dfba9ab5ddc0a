"""The image that is shipped, built without a registry, and containers of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

from tests.support.kubectl import render_folder
from tests.support.proxy import free_ports
from tests.support.server import Server, wait_for

ROOT = Path(__file__).parents[2]
BASE, IMAGE = "localhost/gradless-base:local", "localhost/gradless:local"
#: With nothing of it there: torch is downloaded, and the models are compiled.
BUILD_SECONDS = 1500
#: What ends a container, and starts it again, reads it too: so it is a file that stays.
SETTINGS = Path(__file__).with_name("containers.conf")
#: Where conmon leaves a file when the kernel ends something for its memory.
LITTER = tempfile.TemporaryDirectory(prefix="gradless-podman-")
#: As the manifest says it, in podman's words.
SECURITY = [
    *("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp:rw,exec,mode=1777,size=256m"),
    *("--cap-drop", "all", "--security-opt", "no-new-privileges"),
    *("--cpus", "2", "--memory", "2g", "--pids-limit", "512"),
]
Startable = TypeVar("Startable", "Container", "Pod")
TOOLS = ("buildah", "podman", "runc", "mmdebstrap", "catatonit")
MISSING = f"one of {', '.join(TOOLS)} is missing, or this is not root; make deploy-test installs them"


def is_missing() -> bool:
    return os.geteuid() != 0 or not all(shutil.which(tool) for tool in TOOLS)


def run(*command: object, limit: float = 120, **more: Any) -> str:
    """A command's standard output; its words are told where it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=limit, **more)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def podman(*command: object, limit: float = 120) -> str:
    environment = os.environ | {"CONTAINERS_CONF": str(SETTINGS)}
    return run("podman", *command, limit=limit, env=environment, cwd=LITTER.name)


def make_base() -> None:
    """Debian with Python, and this machine's ways to package indexes: in the place of `python:3.11-slim-bookworm`."""
    if subprocess.run(["podman", "image", "exists", BASE], check=False).returncode == 0:
        return
    with tempfile.TemporaryDirectory(prefix="gradless-base-") as folder:
        packages = "--include=python3,python3-venv,ca-certificates"
        run("mmdebstrap", "--variant=minbase", packages, "bookworm", f"{folder}/base.tar", limit=600)
        run("podman", "import", f"{folder}/base.tar", f"{BASE}-debian", limit=300)
        lines = [f"FROM {BASE}-debian"]
        here = {"certificates": ssl.get_default_verify_paths().openssl_cafile, "pip.conf": "/etc/pip.conf"}
        there = {"certificates": "/etc/ssl/certs/ca-certificates.crt", "pip.conf": "/etc/pip.conf"}
        for name, path in here.items():
            if Path(path).is_file():
                shutil.copy(path, f"{folder}/{name}")
                lines.append(f"COPY {name} {there[name]}")
        Path(folder, "Containerfile").write_text("\n".join(lines) + "\n")
        run("buildah", "bud", "--isolation", "chroot", "--format", "docker", "--tag", BASE, folder, limit=300)


def build() -> str:
    """The image's id; layers that were built before are used again."""
    make_base()
    revision = run("git", "-C", ROOT, "rev-parse", "HEAD").strip()
    options = ["--isolation", "chroot", "--format", "docker", "--layers", "--tag", IMAGE]
    arguments = {"BASE": BASE, "VERSION": "test", "REVISION": revision, "CREATED": "2026-01-01T00:00:00Z"}
    for name, value in arguments.items():
        options += ["--build-arg", f"{name}={value}"]
    run("buildah", "bud", *options, ROOT, limit=BUILD_SECONDS)
    return podman("image", "inspect", IMAGE, "--format", "{{.Id}}").strip()


def _started(one: Startable) -> Startable:
    """What does not start leaves nothing either."""
    try:
        return one.start()
    except BaseException:
        one.remove()
        raise


class Container:
    """One container of the image on free ports of 127.0.0.1, limited as the manifest says."""

    def __init__(self, *options: str) -> None:
        self.port, operations = free_ports(2)
        self.url, self.operations = (f"http://127.0.0.1:{port}" for port in (self.port, operations))
        self.name = f"gradless-test-{uuid.uuid4().hex[:8]}"
        self._options = options
        self._environment = {
            "GRADLESS_HOST": "127.0.0.1",
            "GRADLESS_PORT": str(self.port),
            "GRADLESS_OPERATIONS_PORT": str(operations),
        }

    def start(self) -> Container:
        variables = [word for name, value in self._environment.items() for word in ("--env", f"{name}={value}")]
        podman(
            "run", "--detach", "--name", self.name, "--network", "host", *SECURITY, *variables, *self._options, IMAGE
        )
        wait_for(self.is_ready, 120, f"{self.name} is ready")
        return self

    is_ready = Server.is_ready
    metric = Server.metric
    samples = staticmethod(Server.samples)

    def execute(self, *command: str) -> str:
        return podman("exec", self.name, *command)

    def log(self) -> list[dict[str, Any]]:
        """What the server wrote, line by line."""
        done = subprocess.run(["podman", "logs", self.name], capture_output=True, text=True, timeout=60)
        return [json.loads(line) for line in (done.stdout + done.stderr).splitlines() if line.startswith("{")]

    def stop(self) -> int:
        """SIGTERM to the first process, as Kubernetes sends it, and its exit code."""
        podman("stop", "--time", "45", self.name)
        return int(podman("inspect", self.name, "--format", "{{.State.ExitCode}}"))

    def remove(self) -> None:
        podman("rm", "--force", "--time", "0", self.name)

    def __enter__(self) -> Container:
        return _started(self)

    def __exit__(self, *_: object) -> None:
        self.remove()


class Pod:
    """The rendered Deployment of the podman overlay, played by `podman play kube`, on free ports of 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        port, operations = free_ports(2)
        self.url, self.operations = (f"http://127.0.0.1:{each}" for each in (port, operations))
        self.documents = render_folder(ROOT / "deploy" / "kubernetes" / "overlays" / "podman")
        self._file = folder / "rendered.yaml"
        moved = self.moved(port, operations)
        self._file.write_text(yaml.safe_dump_all(moved))
        [self.deployment] = [each for each in moved if each["kind"] == "Deployment"]

    def moved(self, port: int, operations: int) -> list[dict[str, Any]]:
        """The documents with free ports."""
        text = yaml.safe_dump_all(self.documents)
        assert "8000" in text
        assert "9000" in text
        return in_the_hosts_network(text.replace("8000", str(port)).replace("9000", str(operations)))

    is_ready = Server.is_ready
    metric = Server.metric
    samples = staticmethod(Server.samples)

    def start(self) -> Pod:
        podman("play", "kube", self._file, limit=180)
        wait_for(self.is_ready, 120, "the pod is ready")
        [self.container] = podman(
            "ps", "--filter", "label=app.kubernetes.io/name=gradless", "--format", "{{.Names}}"
        ).split()
        return self

    def execute(self, *command: str) -> str:
        return podman("exec", self.container, *command)

    def remove(self) -> None:
        with contextlib.suppress(AssertionError):  # what did not come up is not there
            podman("play", "kube", "--down", self._file)

    def __enter__(self) -> Pod:
        return _started(self)

    def __exit__(self, *_: object) -> None:
        self.remove()


def in_the_hosts_network(text: str) -> list[dict[str, Any]]:
    """What was rendered, for a machine whose podman has no network of its own: that needs more than a test installs."""
    objects = list(yaml.safe_load_all(text))
    for each in objects:
        if each["kind"] == "ConfigMap" and "GRADLESS_PORT" in each["data"]:
            each["data"]["GRADLESS_HOST"] = "127.0.0.1"
        if each["kind"] == "Deployment":
            pod = each["spec"]["template"]["spec"]
            pod["hostNetwork"] = True
            del pod["containers"][0]["ports"]
    return objects


@contextlib.contextmanager
def containers(*options: str) -> Iterator[list[Container]]:
    """Two of them."""
    with Container(*options) as one, Container(*options) as other:
        yield [one, other]


def optimization(server: Container | Pod) -> str:
    """How the default model answers: `compiled`, or why not."""
    return str(httpx.get(f"{server.operations}/models/efficientnet_lite0", timeout=10).json()["optimization"]["state"])


if __name__ == "__main__":
    print(yaml.safe_dump_all(in_the_hosts_network(sys.stdin.read())))
