"""docs/gradient-control.md: every block of code is run, and every figure is a measured one."""

import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from service.audit.figures import Audit
from service.audit.gallery import (
    VGG16_STATES,
    draw,
    kept,
    memory_of,
    modes_table,
    pictures,
    slowdown,
    vgg16_in,
    vgg16_table,
)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gradient-control.md").read_text()
FIGURES = ROOT / "docs" / "figures"
NUMBERS = json.loads((FIGURES / "figures.json").read_text())
BLOCK = re.compile(r"^```(\w+)(?: title=\"([\w.]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    """`(language, title, text)` of each fenced block, in order."""
    return [match.groups() for match in BLOCK.finditer(PAGE)]


def test_every_block_of_python_prints_what_the_page_says():
    names = {}
    run = 0
    for (language, title, code), (following, _, expected) in pairwise(blocks()):
        if language != "python" or title:
            continue
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(code, "docs/gradient-control.md", "exec"), names)
        assert following == "text", f"a block without its output:\n{code}"
        assert printed.getvalue() == expected, code
        run += 1
    assert run == sum(language == "python" and not title for language, title, _ in blocks()) >= 10


def test_the_audit_of_the_pages_script_prints_what_the_page_says(tmp_path):
    page = blocks()
    (file,) = [(title, code) for _, title, code in page if title]
    (tmp_path / file[0]).write_text(file[1])
    number = next(place for place, (language, _, _) in enumerate(page) if language == "console")
    command = page[number][2].removeprefix("$ gradless ").split()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-m", "service", *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.strip() == page[number + 1][2].strip()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_tables_of_modes_are_those_of_the_figures(number):
    assert modes_table(msgspec.convert(NUMBERS["modes"][number], Audit)) in PAGE


def test_the_time_that_a_graph_costs_is_that_of_the_figures():
    assert slowdown(msgspec.convert(NUMBERS["modes"], list[Audit])) in PAGE.replace("\n", " ")


def test_vgg16s_table_is_that_of_the_figures():
    assert vgg16_table(NUMBERS["vgg16"]) in PAGE


def test_what_the_figures_say_of_memory_is_measured_again():
    import torchvision

    resnet18 = torchvision.models.resnet18().eval()
    for row in NUMBERS["batch"][:3]:
        assert kept(resnet18, pictures(row["batch"])).items() <= row.items()
    first = kept(resnet18, pictures(8))
    assert first.items() <= NUMBERS["depth"][0].items()
    audited = NUMBERS["modes"][1]["modes"][1]
    assert (audited["mode"], audited["graph_nodes"]) == ("eval+grad", first["graph_nodes"])
    assert audited["saved_bytes"] == first["saved_bytes"]


def vgg16_measured(state, device):
    import torch
    import torchvision

    with torch.device(device):
        model = torchvision.models.vgg16(init_weights=False).eval()
    return memory_of(vgg16_in(model, state), pictures(8).to(device))


#: The page's own question is the one that `make test` has the time for.
@pytest.mark.parametrize(
    "state",
    [state if state == "features frozen" else pytest.param(state, marks=pytest.mark.full) for state in VGG16_STATES],
)
def test_vgg16s_states_are_measured_again(state):
    (row,) = [row for row in NUMBERS["vgg16"] if row["state"] == state]
    assert vgg16_measured(state, "cpu").items() <= row.items()


@pytest.mark.parametrize("state", VGG16_STATES)
def test_vgg16s_figures_are_those_of_a_forward_that_computes_nothing(state):
    """All but the memory kept alive: there is none."""
    (row,) = [row for row in NUMBERS["vgg16"] if row["state"] == state]
    found = vgg16_measured(state, "meta")
    assert found.pop("held_bytes") == 0
    assert found.items() <= row.items()


def test_the_pictures_are_drawn_from_the_numbers_and_all_are_on_the_page(tmp_path):
    (tmp_path / "figures.json").write_text((FIGURES / "figures.json").read_text())
    draw(tmp_path)
    drawn = {file.name for file in tmp_path.glob("*.png")}
    assert drawn == set(re.findall(r"\(figures/(\S+\.png)\)", PAGE))
    assert all((FIGURES / name).is_file() for name in drawn)
