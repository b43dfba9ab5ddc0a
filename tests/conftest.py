from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import torch

from service.cli import main
from tests.support.alone import leave, only_as_many_as_may
from tests.support.models import SHIPPED, SMALL, make_models
from tests.support.server import Server

TESTS = Path(__file__).parent
#: Long files first, and those of milliseconds last, so that two workers end together.
ORDER = ("faults", "deploy", "e2e", "examples", "docs", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(item.path.relative_to(TESTS).parts[0]))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test marked `alone` wait until the other workers rest, before the clock of its timeout runs."""
    with only_as_many_as_may(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_sessionfinish() -> None:
    leave()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers and leaves none behind."""
    servers: list[Server] = []

    def start(models: Path, *flags: str, **more: object) -> Server:
        servers.append(Server(models, *flags, **more))  # type: ignore[arg-type]
        return servers[-1].started()

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty folder whose path leaves room for the name of a socket (107 bytes in all), which `tmp_path` may not."""
    with tempfile.TemporaryDirectory(prefix="gradless-test-") as folder:
        yield Path(folder)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """Runs `gradless` in this process, which has imported torch: its exit code, and what it printed on each stream."""

    def run(*words: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["gradless", *map(str, words), "--device", "cpu"])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module", autouse=True)
def _threads_of_torch() -> Iterator[None]:
    """A module that takes another number of intra-op threads leaves it to no other, whose sums would end in other bits.

    Before any fixture of the module's own, which may do so too.
    """
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _torchs_chance() -> None:
    """Weights that a test draws are the same in every run, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shipped_models() -> Path:
    return SHIPPED


@pytest.fixture(scope="session")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of one architecture whose answers differ."""
    return make_models(tmp_path_factory.mktemp("models") / "two", one=SMALL.format(seed=1), two=SMALL.format(seed=2))


@pytest.fixture(scope="session")
def server(two_models: Path) -> Iterator[Server]:
    """One server for all tests that only ask; two front ends, so that metrics have something to add up."""
    with Server(two_models, "--default-model", "one", "--front-ends", "2") as running:
        yield running.started()
