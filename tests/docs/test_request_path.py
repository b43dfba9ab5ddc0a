"""docs/request-path.md follows one request in ten steps; each link leads to the line of the function that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "request-path.md"
LINKS = re.findall(r"\[`(\w+)`\]\(\.\./([\w/.]+)#L(\d+)\)", PAGE.read_text())


def test_there_are_ten_steps():
    steps = re.findall(r"^\| (\d+) \|.*#L\d+\)", PAGE.read_text(), re.MULTILINE)
    assert steps == [str(number) for number in range(1, 11)]


@pytest.mark.parametrize(("name", "file", "line"), LINKS, ids=[name for name, _, _ in LINKS])
def test_a_link_leads_to_its_function(name, file, line):
    lines = (ROOT / file).read_text().splitlines()
    found = [number for number, text in enumerate(lines, 1) if re.match(rf"\s*(async )?(def|class) {name}\b", text)]
    assert int(line) in found, f"{name} is at {file}#L{found}"


def test_no_link_of_the_page_is_passed_over():
    assert PAGE.read_text().count("](../service/") == len(LINKS)
