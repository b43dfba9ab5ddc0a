"""On a GPU: replayed or launched, one batch or two under way, each example gets its own answer, the same one."""

import pytest
import torch

from service.engine.cuda import CannotRecordError
from service.engine.guard import CaughtError
from service.engine.model import ServedModel
from service.engine.staging import SLOTS
from service.loader.comparison import apart
from service.loader.compiled import Arrays
from service.loader.load import load
from service.loader.proof import tolerance_of
from service.loader.repository import find_models
from service.loader.tuning import Tuning
from service.wire.specs import ExitCode
from tests.support.gpu import DEVICE, needs_gpu
from tests.support.tensor_models import make_tensor_models
from tests.support.tiny import CLASSES, tiny

pytestmark = needs_gpu

LAYERS = f"""\
import torch
from torch import nn


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(128, {CLASSES}),
        )

    def forward(self, x):
        IN_BETWEEN
        return self.layers(x)


def tiny():
    return Layers()
"""


@pytest.fixture
def served(tmp_path):
    """Makes a served model, whose forward does this first; the tests run in inference mode, as a worker does."""

    def make(in_between: str = "pass", name: str = "one") -> ServedModel:
        folder = tiny(tmp_path / name, code=LAYERS.replace("IN_BETWEEN", in_between))
        with torch.inference_mode(False):
            return ServedModel(load(folder), torch.device(DEVICE))

    with torch.inference_mode():
        yield make


def pictures(model: ServedModel, count: int) -> Arrays:
    return (torch.randint(0, 256, (count, *model.loaded.input.shape), dtype=torch.uint8).pin_memory(),)


def alike(model: ServedModel, some: Arrays, others: Arrays) -> bool:
    """Whether the one output of each is."""
    [one], [other] = some, others
    return float((one - other).abs().max()) <= tolerance_of(model.module) * float(one.abs().max())


def test_replayed_and_launched_a_batch_of_any_size_gets_the_same_answers(served):
    model = served()
    batches = [pictures(model, size) for size in model.sizes]
    launched = [model.run_batch(batch) for batch in batches]
    assert model.cuda_graphs == []
    model.record_cuda_graphs(model.sizes)
    assert model.cuda_graphs == model.sizes == [1, 2, 4, 8, 16, 32]
    for batch, expected in zip(batches, launched, strict=True):
        answers = model.run_batch(batch)
        assert answers[0].is_inference()
        assert alike(model, expected, answers)
        assert not alike(model, expected, model.run_batch(pictures(model, len(batch[0]))))


@pytest.mark.parametrize("recorded", [True, False])
def test_two_batches_under_way_each_get_their_own(served, recorded):
    model = served()
    if recorded:
        model.record_cuda_graphs(model.sizes)
    batches = [pictures(model, size) for size in (32, 8, 8, 1, 32, 32)]
    expected = [(model.run_batch(batch)[0].clone(),) for batch in batches]
    assert bool(model.forward.overlaps_from) == recorded
    found = []
    under_way = []
    for batch in batches:
        under_way.append(model.begin_batch(batch))
        if len(under_way) == SLOTS:
            found.append(under_way.pop(0).wait())
    found += [batch.wait() for batch in under_way]
    assert all(alike(model, one, other) for one, other in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    "in_between",
    [
        "assert x.sum().item() < 1e9",
        "x = x.cpu().to(self.layers[0].weight.device)",
        "torch.cuda.synchronize()",
        "torch.cuda.empty_cache(); torch.cuda.current_stream().synchronize()",
    ],
)
def test_a_forward_that_waits_for_the_gpu_is_launched_and_answers(served, in_between):
    model = served(in_between)
    batch = pictures(model, 8)
    before = model.run_batch(batch)
    with pytest.raises(CannotRecordError):
        model.record_cuda_graphs(model.sizes)
    assert model.cuda_graphs == []
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert alike(model, before, model.run_batch(batch))
    other = served(name="other")
    other.record_cuda_graphs(other.sizes)  # nothing is left that would keep another model from being recorded
    assert other.cuda_graphs == other.sizes


def test_what_answers_otherwise_when_it_is_replayed_is_launched(served, monkeypatch):
    model = served()
    batch = pictures(model, 8)
    before = model.run_batch(batch)
    gpu = model._gpu

    def record_another(sizes):
        with torch.inference_mode():
            gpu._graphs = {
                size: (torch.cuda.CUDAGraph(), (torch.zeros(size, CLASSES, device=DEVICE),)) for size in sizes
            }

    monkeypatch.setattr(gpu, "record", record_another)
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: None)
    with pytest.raises(CannotRecordError, match="differ by"):
        model.record_cuda_graphs(model.sizes)
    assert model.cuda_graphs == []
    assert alike(model, before, model.run_batch(batch))


def test_weights_that_are_laid_out_anew_are_recorded_anew(served):
    model = served()
    batch = pictures(model, 8)
    before = model.run_batch(batch)
    model.record_cuda_graphs(model.sizes)
    with torch.inference_mode(False):
        model.apply(Tuning("channels_last", 1))
    assert model.cuda_graphs == []
    assert alike(model, before, model.run_batch(batch))


def test_a_replay_reads_the_weights_that_the_guard_watches(served):
    model = served()
    batch = pictures(model, 8)
    model.record_cuda_graphs(model.sizes)
    guard = model.guard()
    before = model.run_batch(batch)
    guard.look(before)
    with torch.inference_mode(False), torch.no_grad():
        model.module.layers[0].weight.mul_(2)
    after = model.run_batch(batch)
    assert not alike(model, before, after)
    with pytest.raises(CaughtError) as caught:
        guard.look(after)
    assert caught.value.code is ExitCode.SEAL_BROKEN


def test_the_proof_holds_of_what_is_replayed(served):
    model = served()
    model.record_cuda_graphs(model.sizes)
    report = model.check(model.sizes)
    assert report.passed, report.refusal
    assert not report.inconclusive


def test_a_batch_that_cannot_begin_leaves_room_for_others(served):
    model = served()
    batch = pictures(model, 4)
    expected = model.run_batch(batch)
    for _ in range(SLOTS + 1):
        with pytest.raises(RuntimeError):
            model.begin_batch((batch[0][:, :2],))
    assert alike(model, expected, model.run_batch(batch))


def test_more_than_the_cap_is_computed_too(served):
    model = served()
    (batch,) = pictures(model, model.cap + 1)
    parts = [model.run_batch((part,))[0] for part in (batch[:1], batch[1:])]
    assert alike(model, (torch.cat(parts),), model.run_batch((batch,)))


@pytest.mark.parametrize("name", ["recommender", "three", "fahrenheit"])
def test_models_of_several_inputs_and_outputs_are_replayed_as_they_are_launched(tmp_path, name):
    folder = find_models(make_tensor_models(tmp_path, name))[name]
    model = ServedModel(load(folder), torch.device(DEVICE))
    with torch.inference_mode():
        batches = [model.examples(size) for size in model.sizes]
        launched = [model.run_batch(batch) for batch in batches]
        model.record_cuda_graphs(model.sizes)
        assert model.cuda_graphs == model.sizes
        for batch, expected in zip(batches, launched, strict=True):
            replayed = model.run_batch(batch)
            assert len(replayed) == len(model.adapter.raw)
            assert apart(expected, replayed) <= tolerance_of(model.module)
