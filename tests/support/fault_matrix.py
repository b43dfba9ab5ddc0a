"""The fault matrix: which tests hold each row, how each was seen red, and docs/faults.md made from a run of them all.

`make faults` runs every row's tests; then, in a copy of the tree, it takes each row's guard out and runs them again.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("gradless.py", "service", "tests", "models", "docs", "pyproject.toml", "README.md", "Makefile", "Dockerfile")


@dataclass(frozen=True)
class Broken:
    """How a guard is taken out: `old` becomes `new` in `file`. `words` tell it; `only` narrows the tests."""

    words: str
    file: str
    old: str
    new: str
    only: str = ""


@dataclass(frozen=True)
class Row:
    """A row: what is done to the server, and the names that its tests begin with."""

    id: str
    what: str
    tests: tuple[str, ...]
    broken: Broken | None = None


@dataclass
class Outcome:
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    figures: list[str] = field(default_factory=list)
    red: str = ""


def run(tests: tuple[str, ...], folder: Path, limit: float = 900) -> Outcome:
    """Run the tests whose names begin so, in a tree."""
    with tempfile.TemporaryDirectory() as results:
        report = Path(results) / "junit.xml"
        # A name stands for all its variants; -k would match parts of other names too, so the ids are spelt out.
        chosen = _node_ids(tests, folder)
        command = [sys.executable, "-m", "pytest", "-q", "-x" if folder != ROOT else "-q", f"--junitxml={report}"]
        options = ["-o", "junit_logging=system-out", "-p", "no:cacheprovider"]
        subprocess.run([*command, *options, *chosen], cwd=folder, capture_output=True, timeout=limit, check=False)
        return _read(report)


def _node_ids(tests: tuple[str, ...], folder: Path) -> list[str]:
    found = []
    for file in sorted((folder / "tests").rglob("test_*.py")):
        source = file.read_text()
        found += [f"{file.relative_to(folder)}::{name}" for name in tests if f"def {name}(" in source]
    if len(found) < len(tests):
        raise LookupError(f"not every test is there: {tests}, {found}")
    return found


def _read(report: Path) -> Outcome:
    outcome = Outcome()
    for case in ET.parse(report).iter("testcase"):
        outcome.seconds += float(case.get("time", 0))
        if case.find("failure") is not None or case.find("error") is not None:
            outcome.failed += 1
        elif case.find("skipped") is not None:
            outcome.skipped += 1
        else:
            outcome.passed += 1
        printed = (case.findtext("system-out") or "").strip().splitlines()
        outcome.figures += [line for line in printed if not line.startswith("---")][-1:]
    return outcome


def see_red(row: Row, folder: Path) -> str:
    """Take the row's guard out of a copy of the tree, and run its tests: the words for the table."""
    broken = row.broken
    if broken is None:
        return "not tried"
    file = folder / broken.file
    source = file.read_text()
    if source.count(broken.old) < 1:
        raise LookupError(f"{row.id}: {broken.file} has no {broken.old!r}")
    file.write_text(source.replace(broken.old, broken.new))
    try:
        tests = (broken.only,) if broken.only else row.tests
        outcome = run(tests, folder)
    finally:
        file.write_text(source)
    return f"{broken.words}: {'red' if outcome.failed else '**still green**'}"


def copy_of_the_tree(folder: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)


HEAD = """\
# The fault matrix

What must not break the server, and what happens when it is tried. Made by `make faults`, which runs the tests of every
row against the shipped server over a real socket, and then takes each row's guard out of a copy of the code and runs
them again: the last column says what was taken out, and whether the tests noticed. A row of several tests is seen
red in one of them. In every row, each accepted request gets exactly one response, and a 200 is right: it is compared
with a direct forward.

| row | what is done | tests | seconds | figures | with its guard taken out |
| --- | --- | --- | --- | --- | --- |"""


def line(row: Row, outcome: Outcome) -> str:
    verdict = f"{outcome.passed} passed"
    verdict += f", **{outcome.failed} failed**" if outcome.failed else ""
    verdict += f", {outcome.skipped} skipped" if outcome.skipped else ""
    figures = "; ".join(outcome.figures).replace("|", "/")
    return f"| {row.id} | {row.what} | {verdict} | {outcome.seconds:.0f} | {figures} | {outcome.red} |"


def main(wanted: list[str]) -> None:
    """Rows by id, or all; the table goes to standard output."""
    from tests.support.fault_rows import LATER, ROWS

    rows = [row for row in ROWS if not wanted or row.id in wanted]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        copy_of_the_tree(Path(folder))
        for row in rows:
            outcome = run(row.tests, ROOT)
            outcome.red = see_red(row, Path(folder))
            lines.append(line(row, outcome))
            print(lines[-1], file=sys.stderr, flush=True)
    print(HEAD, *lines, sep="\n")
    print("\nNot here yet:", *(f"- {row}: {why}" for row, why in LATER.items()), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
