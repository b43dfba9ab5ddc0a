"""Controls that must fail: what people leave, forget or write in a model that is served."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 5


class Base(nn.Module):
    """A sound model of `(N, 3, 8, 8) float32` pictures, for others to spoil.

    Attributes:
        left_as_it_is: whether serving's `freeze` is kept from it.
    """

    left_as_it_is = False

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(6 * 36, CLASSES)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x))


# Train mode


class IgnoresEval(Base):
    """Its own `train()` knows one mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.body.append(nn.Dropout(0.5))

    def train(self, mode: bool = True) -> IgnoresEval:
        super().train(True)
        return self


class LeftInTrainMode(Base):
    """Frozen and never told `eval()`: it learns from the requests."""

    left_as_it_is = True

    def __init__(self) -> None:
        super().__init__()
        self.body.insert(1, nn.BatchNorm2d(6))
        self.requires_grad_(False)


class DropoutLeftInTrainMode(Base):
    left_as_it_is = True

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.eval().requires_grad_(False)
        self.dropout.train()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.dropout(x))


class TrainsInForward(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.body.train()
        return super().forward(x)


class TrainsWhileInForward(Base):
    """Seen from outside, it is always in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        self.body.train()
        features = self.body(x)
        self.body.eval()
        return self.head(features)


class HiddenDropout(Base):
    """`eval()` does not reach into a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Dropout(0.5)]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.hidden[0](x))


class SpectralNormLeftInTrainMode(Base):
    """Each forward in train mode takes one more step of the power iteration."""

    left_as_it_is = True

    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.spectral_norm(self.head)
        self.requires_grad_(False)


# Parameters that still learn


class LeftUnfrozen(Base):
    """The most common one: `eval()` and nothing else."""

    left_as_it_is = True

    def __init__(self) -> None:
        super().__init__()
        self.eval()


class UnfreezesInForward(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.head.requires_grad_(True)
        return super().forward(x)


class UnfreezesWhileInForward(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.head.requires_grad_(True)
        answer = super().forward(x)
        self.head.requires_grad_(False)
        return answer


class HiddenUnfrozen(Base):
    """`requires_grad_(False)` does not reach into a plain list either."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Linear(CLASSES, CLASSES).eval()]

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden[0](super().forward(x))


class UnfrozenTensor(Base):
    """A leaf that is not a Parameter, so `parameters()` does not name it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(CLASSES, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


# Inference mode


class LeavesTheMode(Base):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode(False):
            x = x * 2
        return super().forward(x)


class LeavesTheModeInAHook(Base):
    def __init__(self) -> None:
        super().__init__()
        self.body.register_forward_hook(self._hook)

    @staticmethod
    def _hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        with torch.inference_mode(False):
            return output * 2


class _Leaving(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        with torch.inference_mode(False):
            return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 2


class LeavesTheModeInAFunction(Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_Leaving.apply(x))


class LeavesTheModeForAModule(Base):
    """Every operator of the module is its own, none is left to see from the outside."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode(False):
            features = self.body(x.clone())
        return self.head(features)


class NeverComesBack(Base):
    """Enters another mode and stays there: the next model in this thread runs without inference mode."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        self.left = torch.inference_mode(False)
        self.left.__enter__()
        return self.head(features.clone())


class AnswersFromAThread(Base):
    """Modes are a thread's own: a helper thread is in none."""

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        thread = threading.Thread(target=lambda: found.append(self.body(x.clone())))
        thread.start()
        thread.join()
        return self.head(found[0])


class AnswersOutsideTheMode(Base):
    def forward(self, x: Tensor) -> Tensor:
        answer = super().forward(x)
        with torch.inference_mode(False):
            return answer.clone()


# Graphs


class BuildsAGraph(Base):
    """Builds a graph, as a training script does."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            self.requires_grad_(True)
            return super().forward(x.clone())


class BuildsAGraphAside(Base):
    """A graph that no output shows."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            torch.ones(1, requires_grad=True).exp()
        return super().forward(x)


class AnswersWithALeaf(Base):
    def forward(self, x: Tensor) -> Tensor:
        answer = super().forward(x)
        with torch.inference_mode(False):
            return answer.clone().requires_grad_(True)


class DetachesAfterTheFact(Base):
    """`detach()` throws the graph away when it has been paid for."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            scale = torch.ones(1, requires_grad=True)
            x = (x.clone() * scale).detach()
        return super().forward(x)


# State


class CountsInABuffer(Base):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class CountsInAnAttribute(Base):
    def __init__(self) -> None:
        super().__init__()
        self.calls = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class UpdatesBatchNorm(Base):
    """A module in eval mode that calls batch_norm in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(
            functional.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True, momentum=0.1)
        )


class KeepsItsLastAnswer(Base):
    last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        answer = super().forward(x)
        if self.last is not None and self.last.shape == answer.shape:
            answer = (answer + self.last) / 2
        self.last = answer
        return answer


class KeepsItsHiddenState(Base):
    """A recurrent layer that goes on where the last caller stopped."""

    state: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.GRUCell(CLASSES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        answer = super().forward(x)
        if self.state is None or self.state.shape != answer.shape:
            self.state = torch.zeros_like(answer)
        self.state = self.memory(answer, self.state)
        return self.state


class EverySecondCall(Base):
    """State that is not a tensor."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * (1 + self.calls % 2)


class WritesInPlace(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.head.bias.add_(1)
        return super().forward(x)


class WritesThroughData(Base):
    """`.data` hides the write from the version counter."""

    def forward(self, x: Tensor) -> Tensor:
        self.head.bias.data.add_(1)
        return super().forward(x)


class ReplacesAParameter(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.head.weight = nn.Parameter(self.head.weight * 0.5, requires_grad=False)
        return super().forward(x)


class AddsABuffer(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.register_buffer("last_mean", x.mean())
        return super().forward(x)


class HiddenBatchNormThatUpdates(Base):
    """Its statistics are in no state_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.BatchNorm2d(3).requires_grad_(False)]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.hidden[0](x))


# Chance


class FunctionalDropout(Base):
    """Its default is training=True, whatever the module's mode."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.dropout(x, 0.5))


class AddsNoise(Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.randn_like(x))


class AddsNoiseInCompany(Base):
    """Quiet when it is alone, as in most tests of a model."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.randn_like(x) if len(x) > 1 else x)


# Company


class BatchNormWithoutStatistics(Base):
    def __init__(self) -> None:
        super().__init__()
        self.body.insert(1, nn.BatchNorm2d(6, track_running_stats=False))


class SubtractsTheBatchMean(Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0, keepdim=True) / 2)


class ScalesByTheBatch(Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / x.abs().max())


class SoftmaxOverTheBatch(Base):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(0)


class SortsTheBatch(Base):
    def forward(self, x: Tensor) -> Tensor:
        answer = super().forward(x)
        return answer[answer[:, 0].argsort()]


class CountsPlaces(Base):
    """Mixes up positions in the batch with positions in the picture."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.arange(len(x))[:, None]


class AnswersTooFew(Base):
    def forward(self, x: Tensor) -> Tensor:
        answer = super().forward(x)
        return answer[:-1] if len(x) > 1 else answer


class AnswersTooMany(Base):
    def forward(self, x: Tensor) -> Tensor:
        answer = super().forward(x)
        return torch.cat([answer, answer[:1]]) if len(x) > 1 else answer


#: By name: how it is built, and the rules that must fail, exactly.
BROKEN: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "its own train() ignores eval()": (IgnoresEval, {"eval", "repeatable"}),
    "left in train mode, with BatchNorm": (LeftInTrainMode, {"eval", "nothing-changed", "batch-invariant"}),
    "one Dropout left in train mode": (DropoutLeftInTrainMode, {"eval", "repeatable"}),
    "forward turns train mode on": (TrainsInForward, {"eval"}),
    "forward turns train mode on and off": (TrainsWhileInForward, {"eval"}),
    "a Dropout in a plain list": (HiddenDropout, {"eval", "repeatable"}),
    "spectral norm left in train mode": (SpectralNormLeftInTrainMode, {"eval", "nothing-changed", "repeatable"}),
    "eval() and not frozen": (LeftUnfrozen, {"frozen"}),
    "forward unfreezes": (UnfreezesInForward, {"frozen"}),
    "forward unfreezes and freezes": (UnfreezesWhileInForward, {"frozen"}),
    "an unfrozen layer in a plain list": (HiddenUnfrozen, {"frozen"}),
    "an unfrozen tensor that is no parameter": (UnfrozenTensor, {"frozen"}),
    "forward leaves inference mode": (LeavesTheMode, {"inference-mode"}),
    "a forward hook leaves inference mode": (LeavesTheModeInAHook, {"inference-mode"}),
    "a custom Function leaves inference mode": (LeavesTheModeInAFunction, {"inference-mode"}),
    "forward leaves inference mode for a module": (LeavesTheModeForAModule, {"inference-mode"}),
    "forward never comes back to inference mode": (NeverComesBack, {"inference-mode", "no-graph"}),
    "forward runs a module in another thread": (AnswersFromAThread, {"inference-mode"}),
    "the last operator is outside inference mode": (AnswersOutsideTheMode, {"inference-mode", "no-graph"}),
    "forward builds a graph": (BuildsAGraph, {"frozen", "inference-mode", "no-graph", "nothing-saved"}),
    "forward builds a graph aside": (BuildsAGraphAside, {"frozen", "inference-mode", "no-graph", "nothing-saved"}),
    "the answer requires a gradient": (AnswersWithALeaf, {"inference-mode", "no-graph"}),
    "forward detaches after the fact": (
        DetachesAfterTheFact,
        {"frozen", "inference-mode", "no-graph", "nothing-saved"},
    ),
    "counts calls in a buffer": (CountsInABuffer, {"nothing-changed"}),
    "counts calls in a tensor that is no buffer": (CountsInAnAttribute, {"nothing-changed"}),
    "updates BatchNorm in eval mode": (UpdatesBatchNorm, {"nothing-changed", "batch-invariant"}),
    "blends in its last answer": (KeepsItsLastAnswer, {"repeatable"}),
    "keeps its hidden state": (KeepsItsHiddenState, {"nothing-changed", "repeatable"}),
    "doubles every second answer": (EverySecondCall, {"repeatable"}),
    "writes to a weight in place": (WritesInPlace, {"nothing-changed", "repeatable"}),
    "writes to a weight through .data": (WritesThroughData, {"nothing-changed", "repeatable"}),
    "replaces a parameter": (ReplacesAParameter, {"nothing-changed", "repeatable"}),
    "adds a buffer": (AddsABuffer, {"nothing-changed"}),
    "a BatchNorm in a plain list": (HiddenBatchNormThatUpdates, {"eval", "nothing-changed", "batch-invariant"}),
    "functional dropout": (FunctionalDropout, {"repeatable"}),
    "adds noise": (AddsNoise, {"repeatable"}),
    "adds noise in company": (AddsNoiseInCompany, {"repeatable"}),
    "BatchNorm without running statistics": (BatchNormWithoutStatistics, {"batch-invariant"}),
    "subtracts the batch's mean": (SubtractsTheBatchMean, {"batch-invariant"}),
    "scales by the batch's largest value": (ScalesByTheBatch, {"batch-invariant"}),
    "softmax over the batch": (SoftmaxOverTheBatch, {"activation", "batch-invariant"}),
    "sorts the batch": (SortsTheBatch, {"batch-invariant"}),
    "counts places in the batch": (CountsPlaces, {"batch-invariant"}),
    "answers too few": (AnswersTooFew, {"batch-invariant"}),
    "answers too many": (AnswersTooMany, {"batch-invariant"}),
}
