"""What is kept of a proof that gives way, and what is made of CUDA graphs."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from service.engine import bring_up as bring_up_module
from service.engine.bring_up import BringUp, PutOffError
from service.engine.cuda import CannotRecordError
from service.engine.model import nothing
from service.host.metric_memory import make_metric_memory
from service.loader.load import load
from service.loader.repository import Catalogue
from service.metrics import Metrics
from service.settings import Settings
from service.wire.specs import WorkerSpec
from tests.support.tiny import tiny


@dataclass
class Recordable:
    """A served model that records what it is told to, unless that is `failing`; its proof then says `refusal`."""

    failing: Exception | None = None
    check_failing: Exception | None = None
    refusal: str = ""
    sizes: list[int] = field(default_factory=lambda: [1, 2, 4])
    cap: int = 4
    cuda_graphs: list[int] = field(default_factory=list)
    loaded: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(name="m"))

    def record_cuda_graphs(self, sizes):
        if self.failing:
            raise self.failing
        self.cuda_graphs = sizes

    def forget_cuda_graphs(self):
        self.cuda_graphs = []

    def check(self, sizes, between):
        assert sizes == [1, 4]
        if self.check_failing:
            raise self.check_failing
        figures = SimpleNamespace(batch_seconds={1: 0.001, 4: 0.002})
        return SimpleNamespace(refusal=self.refusal, figures=figures)


def test_what_is_replayed_and_proven_again_answers_and_its_times_are_told():
    model = Recordable()
    assert BringUp._record_cuda_graphs(None, model, nothing) == {1: 0.001, 4: 0.002}
    assert model.cuda_graphs == [1, 2, 4]


@pytest.mark.parametrize(
    "model",
    [
        Recordable(failing=CannotRecordError("it waits for the GPU")),
        Recordable(check_failing=RuntimeError("out of memory")),
        Recordable(refusal="repeatable: it is not"),
    ],
    ids=["not recorded", "not checked", "not proven"],
)
def test_what_cannot_be_replayed_is_launched(model):
    assert BringUp._record_cuda_graphs(None, model, nothing) == {}
    assert model.cuda_graphs == []


@pytest.fixture
def bring_up(tmp_path):
    metrics = Metrics("engine-cpu-a", make_metric_memory())
    settings = Settings(cache=tmp_path / "cache", optimize="eager")
    return BringUp(WorkerSpec("cpu", 1, {}, Catalogue({}, ""), settings), metrics)


class Between:
    """Counts calls, and puts the model off at one of them."""

    def __init__(self, at):
        self.calls, self.at = 0, at

    def __call__(self):
        assert torch.is_inference_mode_enabled()  # requests for other models are answered here
        self.calls += 1
        if self.calls == self.at:
            raise PutOffError


@pytest.mark.parametrize("at", [2, 3, 9, 15], ids=["loaded", "measuring", "further on", "proving"])
def test_a_proof_that_is_put_off_begins_again_with_what_was_loaded(tmp_path, bring_up, monkeypatch, at):
    loads = []
    monkeypatch.setattr(bring_up_module, "load", lambda folder: (loads.append(folder), load(folder))[1])
    folder = tiny(tmp_path)
    with torch.inference_mode():
        between = Between(at)
        with pytest.raises(PutOffError):
            bring_up.bring_up(folder, between)
        brought = bring_up.bring_up(folder, between)
    assert (brought.state.state, brought.state.report.passed) == ("ready", True)
    assert len(loads) == 1
    assert between.calls > at
    assert not any(parameter.is_inference() for parameter in brought.proven.model.module.parameters())


def test_between_is_called_before_each_forward_of_the_proof(tmp_path, bring_up):
    between = Between(0)
    with torch.inference_mode():
        brought = bring_up.bring_up(tiny(tmp_path), between)
    assert between.calls >= brought.state.report.figures.forwards + 8  # two layouts are measured, four forwards each


def test_a_model_that_cannot_be_loaded_has_failed_in_words(tmp_path, bring_up):
    with torch.inference_mode():
        gone = bring_up.bring_up(tiny(tmp_path, code="raise ValueError('no such day')\n"), Between(0))
    assert (gone.state.state, gone.proven) == ("failed", None)
    assert "no such day" in gone.state.detail
