"""`audit --script`: on each wrong function exactly its pitfall, at its line; on the right ones, none."""

import re
from pathlib import Path

import pytest

from service.audit.fresh_process import in_child
from service.audit.script.function_audit import ScriptOrder, audit_function
from service.audit.script.pitfalls import FIXES

SCRIPTS = Path(__file__).parent / "scripts"
WRONG = sorted(file for file in (SCRIPTS / "wrong").glob("*.py") if file.stem != "net")
RIGHT = sorted(file for file in (SCRIPTS / "right").glob("*.py") if file.stem != "net")


def audited(file, shape=(4, 3, 16, 16)):
    """The audit of a script's `predict` or `step`, in a process of its own."""
    name = "predict" if "def step" not in file.read_text() else "step"
    return in_child(audit_function, ScriptOrder(f"{file}:{name}", shape, "cpu", 1))


def marked(file):
    """The line of a wrong script's pitfall and its name, as a comment there says."""
    lines = enumerate(file.read_text().splitlines(), 1)
    found = [(number, match[1]) for number, line in lines if (match := re.search(r"# pitfall: (\S+)", line))]
    (only,) = found
    return only


@pytest.mark.parametrize("file", WRONG, ids=lambda file: file.stem)
def test_exactly_the_pitfall_of_a_wrong_function_is_named_with_its_line(file):
    found = audited(file).pitfalls
    assert [(pitfall.line, pitfall.pitfall) for pitfall in found] == [marked(file)], found
    assert found[0].file == str(file)
    assert re.search(r"\d", found[0].cost), "a cost is measured"


@pytest.mark.parametrize("file", RIGHT, ids=lambda file: file.stem)
def test_no_pitfall_is_named_of_a_right_function(file):
    assert audited(file).pitfalls == []


def test_there_are_wrong_functions_enough_and_each_pitfall_has_one():
    assert len(WRONG) >= 15
    assert len(RIGHT) >= 5
    assert {marked(file)[1] for file in WRONG} == set(FIXES)
