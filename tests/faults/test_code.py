"""An operator's Python in a server: files beside the architecture, and names that others have taken."""

from __future__ import annotations

import contextlib
import stat
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.test_generations import assert_each_of_one_generation, put, reloaded
from tests.support.models import TRIVIAL, TRIVIAL_CODE, assert_right, direct, make_models, photographs
from tests.support.server import Server
from tests.support.traffic import JPEG, Traffic

ROOT = Path(__file__).parents[2]
BLOCKS = """\
from torch import nn


def pool():
    return nn.AvgPool2d(8)
"""
#: The trivial model, with a layer that it imports when it is made.
WITH_BLOCKS = TRIVIAL_CODE.replace("return nn", "from blocks import pool\n\n    return nn").replace(
    "nn.AvgPool2d(8)", "pool()"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Two models with files of one name beside their architectures."""
    models = make_models(tmp_path_factory.mktemp("models") / "models", one=TRIVIAL, other=TRIVIAL)
    for name, blocks in (("one", BLOCKS), ("other", BLOCKS.replace("Avg", "Max"))):
        put(models / name / "architecture.py", WITH_BLOCKS)
        put(models / name / "blocks.py", blocks)
    return models


@pytest.fixture(scope="module")
def server(models, tmp_path_factory) -> Iterator[Server]:
    """A server of both, started as `python -m service` beside the files of others."""
    with started(models, "-m service", tmp_path_factory.mktemp("others")) as running:
        yield running


def test_files_beside_an_architecture_are_each_models_own_and_change_with_a_reload_under_load(server, models):
    old, other = direct(models, "one"), direct(models, "other")
    with Traffic(server, 2, pause=0.01) as traffic:
        traffic.wait_for_answers(20)
        put(models / "one" / "blocks.py", BLOCKS.replace("nn.AvgPool2d(8)", "nn.LPPool2d(2, 8)"))
        new = direct(models, "one")
        assert reloaded(server) == ""
        traffic.wait_for_answers(20)
    assert len({old.version, new.version, other.version}) == 3
    assert_each_of_one_generation(traffic, old, new)
    answer = httpx.post(f"{server.url}/models/other/predict", content=photographs()[0], headers=JPEG)
    assert_right(answer.json(), other, photographs()[0])


def test_a_file_beside_an_architecture_that_cannot_be_imported_is_told_and_changes_nothing(server, models):
    before = (models / "one" / "blocks.py").read_text()
    put(models / "one" / "blocks.py", "import a_package_nobody_has\n")
    error = reloaded(server)
    put(models / "one" / "blocks.py", before)
    assert "(blocks.py:1); install it: a_package_nobody_has is in no installed package" in error
    assert server.is_ready()
    assert not [line for line in server.log if "Traceback" in line]


def installed(site: Path) -> Path:
    """The command as pip writes it, and the files that it would have installed."""
    site.mkdir()
    for name in ("gradless.py", "service"):
        (site / name).symlink_to(ROOT / name)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["gradless"].split(":")
    (site / "bin").mkdir()
    script = site / "bin" / "gradless"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def others(folder: Path) -> Path:
    """A folder with a package called as ours is, and with files that would hide Python's and torch's."""
    for name in ("service/__init__", "service/cli", "service/preload", "service/launch", "torch", "msgspec", "random"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text("raise RuntimeError('this is somebody else\\'s')\n")
    return folder


@contextlib.contextmanager
def started(models: Path, way: str, where: Path) -> Iterator[Server]:
    """A server started in this way, with packages of others on PYTHONPATH and, where it can be, in its folder."""
    script = installed(where / "site")
    path = others(where / "pythonpath")
    for name in ("torch", "msgspec", "random"):  # there, Python means them to come first
        (path / f"{name}.py").unlink()
    command, folder = {
        "command": ([str(script)], others(where / "here")),
        "-m gradless": ([sys.executable, "-P", "-m", "gradless"], others(where / "here")),
        "-m service": ([sys.executable, "-m", "service"], ROOT),
    }[way]
    places = {"PYTHONPATH": f"{path}:{where / 'site'}"}
    flags = ("--default-model", "one")
    with Server(models, *flags, environment=places, command=command, folder=folder) as running:
        running.started().wait_ready()
        yield running


@pytest.mark.parametrize("way", ["command", pytest.param("-m gradless", marks=pytest.mark.full), "-m service"])
def test_a_package_called_service_on_pythonpath_or_in_the_working_directory_hides_nothing_of_ours(
    request, models, tmp_path, way
):
    with contextlib.ExitStack() as stack:
        shared = way == "-m service"
        server = request.getfixturevalue("server") if shared else stack.enter_context(started(models, way, tmp_path))
        picture, expected = photographs()[0], direct(models, "other")
        answer = httpx.post(f"{server.url}/models/other/predict", content=picture, headers=JPEG)
        assert_right(answer.json(), expected, picture)
        assert not [line for line in server.log if "somebody else" in line]
