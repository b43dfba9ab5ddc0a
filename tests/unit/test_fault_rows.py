"""The fault matrix names tests and code that are there; otherwise `make faults` would find out after half an hour."""

from collections import Counter
from pathlib import Path

import pytest

from tests.support.fault_matrix import ROOT, _node_ids
from tests.support.fault_rows import LATER, ROWS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_rows_tests_and_the_guard_that_it_takes_out_are_there(row):
    assert len(_node_ids(row.tests, ROOT)) >= len(row.tests)
    if row.broken:
        assert row.broken.old in (ROOT / row.broken.file).read_text()
        assert not row.broken.only or row.broken.only in row.tests


def test_no_row_is_there_twice():
    assert max(Counter([*(row.id for row in ROWS), *LATER]).values()) == 1
    assert Path(ROOT / "pyproject.toml").exists()
