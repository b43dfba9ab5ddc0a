"""Models that are wrong on purpose, each in one way: the proof of the proof.

A check that cannot fail proves nothing. Each control names the rules that must fail on it, exactly; a sound one names
none. `gradless check` and the tests run them all; a start does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.loader.controls.broken import BROKEN
from service.loader.controls.sound import SOUND
from service.loader.freeze import freeze
from service.loader.probes import probes
from service.loader.proof import prove
from service.loader.report import Report

#: Side of the controls' inputs, in pixels, and the batch sizes that they are tried at.
SIDE, SIZES = 8, (1, 2, 4)


@dataclass(frozen=True)
class Control:
    """A small model. `breaks` are the rules that must fail, exactly."""

    name: str
    build: Callable[[], nn.Module]
    breaks: frozenset[str]

    def prove(self) -> Report:
        """The proof of this model, in inference mode, through a `run_batch` of its own."""
        with torch.inference_mode(False):  # whatever mode a control leaves behind ends here
            return self._prove()

    def _prove(self) -> Report:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = self.build()
            if not getattr(module, "left_as_it_is", False):
                freeze(module)

            def run_batch(pixels: Tensor) -> object:
                return module((pixels.float() - 127) / 64)

            with torch.inference_mode():
                return prove(run_batch, module, probes(2 * SIZES[-1], SIDE), SIZES)

    def caught(self, report: Report) -> bool:
        """Whether the proof broke on exactly the rules that it must."""
        return frozenset(report.broken) == self.breaks


CONTROLS = [Control(name, build, frozenset(breaks)) for name, (build, breaks) in BROKEN.items()] + [
    Control(name, build, frozenset()) for name, build in SOUND.items()
]
