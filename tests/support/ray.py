"""A real Ray cluster on this machine: several raylets, in a folder and on ports of their own, and none left behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import psutil
import yaml

from tests.support.proxy import free_ports
from tests.support.server import wait_for

SHIPPED = Path(__file__).parents[2] / "deploy" / "ray"
MISSING = "Ray is missing; pip install -e '.[ray]'"
APPLICATION = "gradless"
#: As the README exports it.
ENVIRONMENT = dict(re.findall(r"^export (RAY_\w+)=(\w+)", (SHIPPED / "README.md").read_text(), re.MULTILINE))
#: The least that Ray takes (bytes).
_OBJECT_STORE = 80 << 20


def is_missing() -> bool:
    return importlib.util.find_spec("ray") is None


class RayCluster:
    """A head with no CPUs and some nodes with a few, which are logical: they say how many engines fit.

    Attributes:
        url: where clients are answered, once something is deployed.
    """

    def __init__(self, nodes: int, cpus: int) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="gr-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self._environment = mock.patch.dict(
            os.environ,
            {
                **ENVIRONMENT,
                "TMPDIR": self._temporary.name,
                "PYTHONPATH": str(SHIPPED),
                "GRADLESS_CACHE": f"{self._temporary.name}/cache",
            },
        )
        self._nodes, self._cpus = nodes, cpus
        dashboard, self._port = free_ports(2)
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> RayCluster:
        from ray.cluster_utils import Cluster

        self._environment.start()
        common = {"object_store_memory": _OBJECT_STORE}
        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": int(self.dashboard.rpartition(":")[2])}
        try:
            self._cluster = Cluster(initialize_head=True, head_node_args={**head, **common})
            for _ in range(self._nodes):
                self._cluster.add_node(num_cpus=self._cpus, **common)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            if process.status() == psutil.STATUS_STOPPED:
                process.kill()
        try:
            self._cluster.shutdown()
            wait_for(lambda: not self.processes(), 30, "the end of every process of the cluster")
        except AssertionError as error:
            raise AssertionError(f"{error}; there are {[each.cmdline() for each in self.processes()]}") from None
        finally:
            for process in self.processes():
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self._environment.stop()
            self._temporary.cleanup()

    def processes(self) -> list[psutil.Process]:
        """All that live, whoever their parents are: each has a log open in the folder. (Ray overwrites environ.)"""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                logs = [file for file in process.open_files() if file.path.startswith(f"{self.folder}/")]
                if logs and process.pid != os.getpid():
                    found.append(process)
        return found

    def strike(self, node_id: str, blow: signal.Signals) -> None:
        """What happens to a machine: SIGKILL is a crash, of which others hear; SIGSTOP is silence, as of a lost link.

        Its raylet and everything that runs under it, all at once.
        """
        node = next(node for node in self._cluster.worker_nodes if node.node_id == node_id)
        roots = [psutil.Process(process.pid) for _, process in node.live_processes()]
        for process in roots + [child for root in roots for child in root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(blow)

    # What is deployed

    def deploy(self, models: Path, autoscaling: dict[str, Any] | None = None, **settings: object) -> None:
        """Deploy what is shipped with these models; only ports, numbers of engines and times are others."""
        content = yaml.safe_load((SHIPPED / "serve.yaml").read_text())
        content["http_options"] = {"host": "127.0.0.1", "port": self._port}
        application = content["applications"][0]
        application["args"] = {"models": str(models), "optimize": "eager", **settings}
        engine = next(each for each in application["deployments"] if each["name"] == "Engine")
        engine["ray_actor_options"]["num_cpus"] = 1
        engine["health_check_period_s"] = 0.5
        engine["autoscaling_config"] |= {"min_replicas": 1, "max_replicas": 1} | (autoscaling or {})
        file = self.folder / "serve.yaml"
        file.write_text(yaml.safe_dump(content))
        command = [sys.executable, "-m", "ray.serve.scripts", "deploy", str(file), "--address", self.dashboard]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    def application(self) -> dict[str, Any]:
        """What Ray says of it: `status`, `message`, `deployments`."""
        answer = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=30)
        return answer.json()["applications"][APPLICATION]

    def wait_until_serving(self, limit: float = 120) -> None:
        """Until Ray says that it runs, and the door that it is ready."""
        try:
            wait_for(lambda: self.application()["status"] == "RUNNING", limit, "RUNNING")
            wait_for(lambda: httpx.get(f"{self.url}/health/ready", timeout=30).status_code == 200, 30, "ready")
        except AssertionError as error:
            raise AssertionError(f"{error}; there is {self.application()}") from None

    def running(self, deployment: str) -> dict[str, str]:
        """The replicas that answer, and the node of each."""
        replicas = self.application()["deployments"].get(deployment, {}).get("replicas", [])
        return {each["replica_id"]: each["node_id"] for each in replicas if each["state"] == "RUNNING"}

    def wait_for_engines(self, count: int, other_than: Iterable[str] = (), limit: float = 120) -> dict[str, str]:
        """Until exactly so many answer, and none of those."""
        gone = set(other_than)

        def arrived() -> dict[str, str] | None:
            found = self.running("Engine")
            return found if len(found) == count and not gone & found.keys() else None

        return wait_for(arrived, limit, f"{count} engines, none of {gone}")

    def logged(self, words: str) -> bool:
        """Whether any process of the cluster has written this to its log."""
        return any(words in file.read_text(errors="replace") for file in self.folder.glob("ray/session_*/logs/worker*"))

    def metric(self, name: str) -> float:
        """The sum of a metric of the door."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))
