"""Models that are wrong on purpose, each in one way, and sound ones that look odd: the proof of the proof.

A check that cannot fail proves nothing. Each control names the rules that must fail on it and the findings that must be
made, exactly; a sound one names none. `gradless check` and the tests run them all; a start does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from service.loader.comparison import Comparison
from service.loader.controls.broken import BROKEN
from service.loader.controls.odd_outputs import ODD_OUTPUTS
from service.loader.controls.several import SEVERAL, Control, runner
from service.loader.controls.sound import SOUND
from service.loader.freeze import freeze
from service.loader.output_findings import judge_constant, judge_outputs
from service.loader.proof import prove
from service.loader.report import Finding, Report
from service.tasks.adapters.made_up import blots

Odd: TypeAlias = Callable[[Comparison], list[Finding]]

#: Side of the controls' inputs, in pixels, and the batch sizes that they are tried at.
SIDE, SIZES = 8, (1, 2, 4)


@dataclass(frozen=True)
class ControlModel:
    """A small model. `breaks` are the rules that must fail and the findings that must be made, exactly.

    `several` is of a model of tensors; others take pictures.
    """

    name: str
    build: Callable[[], nn.Module]
    breaks: frozenset[str]
    several: Control | None = None

    def prove(self) -> Report:
        """Prove this model, in inference mode, through a `run_batch` of its own."""
        with torch.inference_mode(False):  # whatever mode a control leaves behind ends here
            return self._prove()

    def _prove(self) -> Report:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = self.build()
            if not getattr(module, "left_as_it_is", False):
                freeze(module)

            if self.several:
                run_batch, preparation = runner(self.several, module)
                return self._judge(run_batch, module, preparation.examples(2 * SIZES[-1]), judge_constant_outputs)
            return self._judge(
                lambda arrays: module((arrays[0].float() - 127) / 64),
                module,
                [blots(2 * SIZES[-1], (3, SIDE, SIDE))],
                judge_scores,
            )

    @staticmethod
    def _judge(
        run_batch: Callable[[tuple[Tensor, ...]], Any], module: nn.Module, examples: Sequence[Tensor], odd: Odd
    ) -> Report:
        with torch.inference_mode():
            return prove(run_batch, module, examples, SIZES, odd=odd)

    @staticmethod
    def seen(report: Report) -> frozenset[str]:
        """The rules that failed, and the findings."""
        return frozenset([*report.broken, *(finding.name for finding in report.findings)])

    def caught(self, report: Report) -> bool:
        """Return whether the proof saw exactly what it must."""
        return self.seen(report) == self.breaks


def judge_scores(comparison: Comparison) -> list[Finding]:
    return judge_outputs(comparison.rows, comparison.contrast, comparison.tolerance, "softmax", allow_constant=False)


def judge_constant_outputs(comparison: Comparison) -> list[Finding]:
    return judge_constant(comparison, allowed=False)


CONTROLS = [
    ControlModel(name, build, frozenset(breaks)) for name, (build, breaks) in (BROKEN | ODD_OUTPUTS).items()
] + [ControlModel(name, build, frozenset()) for name, build in SOUND.items()]
CONTROLS += [ControlModel(name, each.build, frozenset(each.breaks), each) for name, each in SEVERAL.items()]
