"""The guard sees a graph and a write after the batch that made it, and every flipped bit when it has hashed."""

import time

import pytest
import torch
from torch import nn

from service.engine.guard import CaughtError, PackageGuard, WeightsGuard
from service.loader.freeze import PIECE_BYTES, freeze, seal
from service.wire.specs import ExitCode


def model(*layers):
    module = nn.Sequential(*(layers or (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))))
    freeze(module)
    return module


def guarded(module):
    return WeightsGuard("m", [], module, seal(module))


def answer(module):
    return (module(torch.ones(2, 3, 4, 4)),)


def hashed(guard):
    """One pass over the weights; how many steps it took."""
    return sum(1 for _ in guard.verify_once())


def test_what_was_proven_is_not_caught():
    module = model()
    guard = guarded(module)
    with torch.inference_mode():
        for _ in range(3):
            guard.look(answer(module))
        assert hashed(guard) > 0


@pytest.mark.parametrize("given", [lambda m: m[3].bias, lambda m: m[3].weight[:2, :5]])
def test_a_view_of_a_weight_is_an_answer_like_another(given):
    module = model()
    with torch.inference_mode():
        guarded(module).look((given(module),))


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (lambda: torch.ones(2, 5, requires_grad=True), "part of a gradient graph"),
        (lambda: torch.ones(2, 5, requires_grad=True) * 2, "part of a gradient graph"),
        (lambda: torch.ones(2, 5), "not made under inference_mode"),
    ],
)
def test_outputs_of_a_graph_or_of_another_mode_are_a_violation(outputs, words):
    module = model()
    made = outputs()
    with torch.inference_mode(), pytest.raises(CaughtError, match=words) as caught:
        guarded(module).look((made,))
    assert (caught.value.model, caught.value.code) == ("m", ExitCode.VIOLATION)


def test_a_forward_that_left_the_mode_off_is_a_violation():
    module = model()
    with torch.inference_mode():
        outputs = answer(module)
    with pytest.raises(CaughtError, match="left inference mode off"):
        guarded(module).look(outputs)


@pytest.mark.parametrize("name", ["0.weight", "3.bias", "1.running_mean", "1.num_batches_tracked"])
def test_a_write_in_place_is_caught_after_the_batch(name):
    module = model()
    guard = guarded(module)
    with torch.inference_mode():
        module.state_dict(keep_vars=True)[name].add_(1)
        with pytest.raises(CaughtError, match="written to in place") as caught:
            guard.look(answer(module))
    assert caught.value.code is ExitCode.SEAL_BROKEN


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["0.weight", "3.bias", "1.running_var"])
def test_a_write_through_data_is_caught_by_the_hash_in_either_memory_format(name, layout):
    module = model().to(memory_format=layout)
    guard = guarded(module)
    with torch.inference_mode():
        tensor = module.state_dict(keep_vars=True)[name]
        tensor.data[(0,) * tensor.dim()] += 1
        guard.look(answer(module))
        with pytest.raises(CaughtError, match="not to their seal") as caught:
            hashed(guard)
    assert caught.value.code is ExitCode.SEAL_BROKEN


def test_one_flipped_bit_is_caught_by_the_hash():
    module = model()
    guard = guarded(module)
    module[3].weight.data.view(torch.int32)[4, 15] ^= 1
    with pytest.raises(CaughtError):
        hashed(guard)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_weights_are_hashed_in_small_steps(layout):
    module = model(nn.Conv2d(64, 512, 5)).to(memory_format=layout)
    size = module[0].weight.numel() * 4
    assert hashed(guarded(module)) >= size // PIECE_BYTES


def test_a_look_costs_next_to_nothing_beside_a_forward():
    """A ratio from one run: the look after a batch is for every batch."""
    module = model(*(layer for _ in range(20) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))))
    guard = guarded(module)
    pictures = torch.ones(8, 3, 64, 64)
    with torch.inference_mode():
        outputs = (module(pictures),)
        times = {}
        for name, work in (("look", lambda: guard.look(outputs)), ("forward", lambda: module(pictures))):
            began = time.perf_counter()
            for _ in range(20):
                work()
            times[name] = time.perf_counter() - began
    assert times["look"] < times["forward"] / 10


def test_a_package_that_answers_its_probe_otherwise_is_caught():
    answers = iter(["as proven", "as proven", "otherwise"])
    guard = PackageGuard("m", [], lambda: next(answers))
    hashed(guard)
    with pytest.raises(CaughtError, match="other bits than when it was proven") as caught:
        hashed(guard)
    assert caught.value.code is ExitCode.SEAL_BROKEN


def test_a_package_whose_outputs_were_not_made_under_inference_mode_is_caught():
    guard = PackageGuard("m", [], lambda: "")
    with torch.inference_mode():
        guard.look((torch.ones(1, 5),))
        outside = torch.inference_mode(False)
        with outside:
            made_outside = torch.ones(1, 5)
        with pytest.raises(CaughtError) as caught:
            guard.look((made_outside,))
    assert caught.value.code is ExitCode.VIOLATION


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: torch.ones(2, 5, requires_grad=True) * 2, "part of a gradient graph"),
        (lambda: torch.ones(2, dtype=torch.int64), "not made under inference_mode"),
    ],
    ids=["graph", "mode"],
)
def test_any_one_of_several_outputs_is_caught(place, made, words):
    guard = guarded(model())
    bad = made()
    with torch.inference_mode():
        outputs = [torch.ones(2, 5), torch.ones(2, 3, dtype=torch.int64), torch.ones(2) > 0]
        guard.look(outputs)
        outputs[place] = bad
        with pytest.raises(CaughtError, match=words) as caught:
            guard.look(tuple(outputs))
    assert caught.value.code is ExitCode.VIOLATION


def test_what_a_model_was_given_it_may_return_and_no_other_memory():
    module = model()
    given, strange = torch.ones(4, 5), torch.ones(4, 5)
    for guard in (WeightsGuard("m", [given], module, seal(module)), PackageGuard("m", [given], lambda: "")):
        with torch.inference_mode():
            guard.look((given, given[:2], given.movedim(0, 1), answer(module)[0]))
            with pytest.raises(CaughtError, match="not made under inference_mode"):
                guard.look((given, strange))
