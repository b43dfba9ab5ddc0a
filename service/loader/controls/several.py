"""Controls of tensors: several inputs and outputs, integers, state that is passed, the batch on another axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from service.signature import TensorSpec
from service.tasks.adapters.flattening import Flattening, named_outputs
from service.tasks.adapters.plain import Plain

_X = TensorSpec("x", "float32", (6,))
_IDS = TensorSpec("ids", "int64", (3,), range=(0, 9))
_STATE = TensorSpec("state", "float32", (5,))
_STEPS = TensorSpec("steps", "float32", (4, 6), batch_axis=1)


class TwoInputs(nn.Module):
    """A sound model of numbers and ids, with outputs by name, for others to spoil."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.last = nn.Embedding(10, 4), nn.Linear(10, 5)

    def forward(self, x: Tensor, ids: Tensor) -> dict[str, Any]:
        scores = self.last(torch.cat([self.rows(ids).mean(1), x], 1))
        return {"scores": scores, "best": scores.argmax(1), "largest": scores.amax(1), "loss": None}


class PassesItsState(nn.Module):
    """A recurrent cell whose state comes with each request and goes back with its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(6, 5)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = self.cell(x, state)
        return state.tanh(), state


class KeepsItsState(PassesItsState):
    """It is told the state, and goes on from the one that it kept."""

    kept: Tensor | None = None

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if self.kept is not None and len(self.kept) == len(x):
            state = self.kept
        answer, self.kept = super().forward(x, state)
        return answer, self.kept


class BatchSecond(nn.Module):
    """An LSTM as it comes: steps first, examples second."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5)

    def forward(self, steps: Tensor) -> Tensor:
        return self.lstm(steps)[0]


class MixesSteps(BatchSecond):
    """It was written for `batch_first`: what it takes for steps are examples."""

    def forward(self, steps: Tensor) -> Tensor:
        return self.lstm(steps.transpose(0, 1))[0].transpose(0, 1)


class ForgetsTheBatch(TwoInputs):
    """One of its outputs is for all examples together."""

    def forward(self, x: Tensor, ids: Tensor) -> dict[str, Any]:
        found = super().forward(x, ids)
        return found | {"largest": found["largest"].mean()}


class MixesASmallOutput(TwoInputs):
    """The change that company makes is small beside the other outputs, and not beside its own."""

    def forward(self, x: Tensor, ids: Tensor) -> dict[str, Any]:
        found = super().forward(x, ids)
        return found | {"largest": (found["largest"] - found["largest"].mean()) * 1e-9}


class CountsInIntegers(TwoInputs):
    """An integer goes by the place in the batch; no scale makes that small."""

    def forward(self, x: Tensor, ids: Tensor) -> dict[str, Any]:
        found = super().forward(x, ids)
        return found | {"best": torch.arange(len(x)) + 1_000_000}


class Control(NamedTuple):
    """A module of tensors, its inputs and the axis of the batch in each output, and what must be found."""

    build: Callable[[], nn.Module]
    inputs: tuple[TensorSpec, ...]
    breaks: tuple[str, ...]
    batch_axis: int = 0


SEVERAL = {
    "two inputs, one of ids, and outputs by name": Control(TwoInputs, (_X, _IDS), ()),
    "state comes in and goes out": Control(PassesItsState, (_X, _STATE), ()),
    "the batch is the second axis": Control(BatchSecond, (_STEPS,), (), 1),
    "keeps the state that it is given": Control(KeepsItsState, (_X, _STATE), ("nothing-changed", "repeatable")),
    "takes examples for steps": Control(MixesSteps, (_STEPS,), ("batch-invariant",), 1),
    "one output forgets the batch": Control(ForgetsTheBatch, (_X, _IDS), ("batch-invariant",)),
    "a small output of a large model goes by the batch": Control(MixesASmallOutput, (_X, _IDS), ("batch-invariant",)),
    "an integer goes by the place in the batch": Control(CountsInIntegers, (_X, _IDS), ("batch-invariant",)),
}


def runner(control: Control, module: nn.Module) -> tuple[Callable[[tuple[Tensor, ...]], Any], Plain]:
    """Return the function that answers requests for such a module, and what draws its examples."""
    preparation = Plain(control.inputs, module)

    def run_batch(arrays: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        positional, by_name = preparation.forward(*arrays)
        returned = module(*positional, **by_name)
        keys = [key for key, _ in named_outputs(returned).values()]
        return Flattening(keys, [control.batch_axis] * len(keys)).outputs(returned)

    return run_batch, preparation
