"""What a living process has imported: each kind carries its own room and no other."""

from __future__ import annotations

import os
import signal

import httpx
import pytest

from tests.support.models import photographs
from tests.support.server import Server, wait_for

JPEG = {"Content-Type": "image/jpeg"}

#: Loaded by every interpreter of the tree; at SIGUSR1 a process writes down what it has imported.
SITECUSTOMIZE = """\
import os
import pathlib
import signal
import sys


def tell(*_):
    folder = pathlib.Path(os.environ["MODULES_FOLDER"])
    (folder / f"{os.getpid()}.part").write_text("\\n".join(sorted(sys.modules)))
    (folder / f"{os.getpid()}.part").rename(folder / str(os.getpid()))


signal.signal(signal.SIGUSR1, tell)
"""


@pytest.fixture(scope="module")
def imported(two_models, tmp_path_factory):
    """Asks a process of a server that has answered, by its title, what it has imported."""
    folder = tmp_path_factory.mktemp("rooms")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    environment = {"PYTHONPATH": str(folder / "site"), "MODULES_FOLDER": str(folder)}
    with Server(two_models, "--default-model", "one", environment=environment) as server:
        server.started()

        def answered() -> None:
            assert httpx.post(f"{server.url}/predict", content=photographs()[0], headers=JPEG).status_code == 200

        def ask(title: str) -> set[str]:
            (pid,) = server.pids(title)
            os.kill(pid, signal.SIGUSR1)
            answered()  # a signal is handled when the main thread next runs Python
            wait_for((folder / str(pid)).exists, 30, f"the modules of {title}")
            return set((folder / str(pid)).read_text().splitlines())

        answered()
        yield ask


def test_a_front_end_that_has_answered_has_no_worker_and_no_weights(imported):
    modules = imported("gradless: front end 0")
    assert "service.frontend.predict" in modules
    assert {"service.engine.worker", "service.engine.batcher", "service.loader.weights"} & modules == set()
    assert {"service.loader.load", "service.loader.proof", "service.supervisor.tree", "service.cli"} & modules == set()


def test_an_engine_that_has_answered_has_no_http(imported):
    modules = imported("gradless: engine cpu")
    assert {"service.engine.worker", "service.loader.weights"} <= modules
    assert {name for name in modules if name.startswith("service.frontend")} == set()
    assert {"torch._dynamo", "torch._inductor", "sympy"} & modules == set()  # 160 MiB for nothing


def test_the_fork_server_has_torch_and_nothing_of_ours_but_its_list(imported):
    modules = imported("gradless: fork server")
    assert "torch" in modules
    ours = {name for name in modules if name.startswith("service.")}
    assert ours == {"service.supervisor", "service.supervisor.preload", "service.host", "service.host.vision"}
