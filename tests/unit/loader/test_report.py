"""The report of a proof, and the words that `gradless check` and the start have for it."""

from __future__ import annotations

import msgspec
import pytest

from service.loader.report import Figures, Finding, Report
from service.supervisor.summary import said

FIGURES = Figures(0, 0, 0, 0.0, 1.0, 1e-5, [1, 2], {1: 0.1, 2: 0.1}, 10, 1.0)
UNTOLD = Report([], FIGURES, "2026-11-29T12:00:00+00:00", inconclusive="Different inputs differ by nothing.")


@pytest.mark.parametrize(("name", "told"), [("constant", False), ("untrained", True)])
def test_a_constant_model_is_not_called_inconclusive_as_well(name, told):
    report = msgspec.structs.replace(UNTOLD, findings=[Finding(name, "severe", "What was found.")])
    assert report.is_inconclusive == told
    assert ("inconclusive" in said(report)) == told
    assert f"{name}: What was found." in said(report)


def test_a_proof_that_proves_nothing_is_called_so():
    assert said(UNTOLD) == "0 of 0 rules hold, inconclusive"
