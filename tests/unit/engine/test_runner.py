"""Two batches under way: each keeps its inputs, its place in the aboard file and its fate; in order they end."""

import struct
import time

import numpy as np
import pytest
import torch

from service.engine.batcher import Batcher, Part, Request, ladder
from service.engine.caps import Caps
from service.engine.guard import CaughtError, Guard
from service.engine.job import job_of
from service.engine.model import ServedModel
from service.engine.pace import Pace
from service.engine.runner import Runner, part_blocks
from service.errors import ModelFailed, ModelOutputInvalid
from service.host.metric_memory import make_metric_memory
from service.loader.compiled import Package
from service.loader.load import load
from service.metrics import Metrics
from service.signature import TensorSpec
from service.tasks.outputs.results import results_of
from service.wire.aboard import Aboard, make_aboard_file, read_aboard
from service.wire.messages import Failure, Infer, Result, Tensors
from service.wire.specs import ExitCode
from tests.support.device import BAD, Device
from tests.support.tiny import tiny

FAR = 1e9
SIDE = 8
INPUTS = (TensorSpec("image", "uint8", (3, SIDE, SIDE)),)


@pytest.fixture
def device():
    return Device()


@pytest.fixture
def aboard_file():
    return make_aboard_file()


@pytest.fixture
def runner(tmp_path, device, aboard_file):
    """One model of five classes, with a package of which two batches may be under way; and its batcher."""
    folder = tiny(tmp_path)
    model = ServedModel(load(folder), torch.device("cpu"))
    model.run_package(Package(lambda arrays: device.begin(arrays)(), 1, device.begin, overlaps_from=2), "a" * 64)
    batcher = Batcher({"tiny": model.cap})
    metrics = Metrics("engine-cpu-a", make_metric_memory())
    caps = Caps({"tiny": ladder(model.cap)}, batcher, metrics)
    made = Runner(Aboard(aboard_file), caps, Pace(), batcher.cancel, 60, metrics)
    made.open("tiny", model, Guard("tiny", []))
    with torch.inference_mode():
        yield made, batcher


def add(batcher, id, *pictures, alone=False):
    tensors = Tensors(b"".join(bytes([picture]) * 3 * SIDE * SIDE for picture in pictures))
    frame = Infer(id, "tiny", len(pictures), FAR, alone, tensors)
    request = Request(id, "tiny", len(pictures), FAR, alone=alone)
    request.payload = job_of(frame, None, INPUTS)
    batcher.add(request, time.monotonic())


def served(runner):
    """The one model."""
    return runner._served["tiny"].model


def classes(runner, answers):
    """The best class of each example, by its request."""
    results = {
        request.id: results_of(frame.tensors.data, served(runner).signature, request.count)
        for request, frame in answers
    }
    return {id: ids[:, 0].tolist() for id, (_, ids) in results.items()}


def test_each_batch_has_the_answers_to_its_own_pictures(runner, device):
    runner, batcher = runner
    add(batcher, 1, *[1] * 8)
    first = runner.begin(batcher.take())
    add(batcher, 2, *[2] * 8)
    second = runner.begin(batcher.take())
    assert classes(runner, runner.end(first)) == {1: [1] * 8}
    add(batcher, 3, *[3] * 8)
    third = runner.begin(batcher.take())
    assert classes(runner, runner.end(second)) == {2: [2] * 8}
    assert classes(runner, runner.end(third)) == {3: [3] * 8}
    assert device.most == 2


def test_a_batch_that_fails_leaves_the_one_behind_it_as_it_was(runner):
    """Its halves are put side by side anew, while the other's pixels are still being read."""
    runner, batcher = runner
    for id, picture in enumerate([1, 2, BAD, 3, 4, 1, 2, 3]):
        add(batcher, id, picture)
    first = runner.begin(batcher.take())
    add(batcher, 10, *[4] * 8)
    second = runner.begin(batcher.take())
    answers = {request.id: frame for request, frame in runner.end(first)}
    assert isinstance(answers[2], Failure)
    assert answers[2].error == ModelFailed.name
    assert [id for id, frame in answers.items() if isinstance(frame, Result)] == [0, 1, 3, 4, 5, 6, 7]
    assert classes(runner, runner.end(second)) == {10: [4] * 8}


def test_the_aboard_file_names_all_who_are_under_way(runner, aboard_file):
    runner, batcher = runner

    def aboard():
        return read_aboard(aboard_file)

    add(batcher, 1, 1, 1)
    add(batcher, 2, 2, 2)
    first = runner.begin(batcher.take())
    due = aboard().due
    add(batcher, 3, 3, 3)
    second = runner.begin(batcher.take())
    assert (aboard().ids, aboard().due) == ([1, 2, 3], due)
    runner.end(first)
    assert (aboard().ids, aboard().finished) == ([3], 1)
    assert aboard().due > due
    runner.end(second)
    assert (aboard().ids, aboard().due, aboard().finished) == ([], 0, 2)


def test_as_many_may_be_aboard_as_two_batches_can_hold(aboard_file):
    Aboard(aboard_file).board(range(2048))
    with pytest.raises(struct.error):
        Aboard(aboard_file).board(range(2049))


def test_when_a_model_is_caught_the_file_keeps_all_who_were_under_way(runner, aboard_file, monkeypatch):
    runner, batcher = runner
    add(batcher, 1, 1, 1)
    first = runner.begin(batcher.take())
    add(batcher, 2, 2, 2)
    runner.begin(batcher.take())

    def look(guard, outputs):
        raise CaughtError("tiny", ExitCode.VIOLATION, "a graph")

    monkeypatch.setattr(Guard, "look", look)
    with pytest.raises(CaughtError):
        runner.end(first)
    assert read_aboard(aboard_file).ids == [1, 2]


@pytest.mark.parametrize(("pictures", "alone", "fewest"), [(2, False, 2), (1, False, 0), (2, True, 0)])
def test_who_is_alone_or_too_few_is_not_followed(runner, pictures, alone, fewest):
    runner, batcher = runner
    add(batcher, 1, *[1] * pictures, alone=alone)
    flight = runner.begin(batcher.take())
    assert runner.followed_by(flight) == fewest
    runner.end(flight)


def test_a_model_that_runs_eager_is_not_followed(runner):
    runner, batcher = runner
    served(runner).run_eager()
    add(batcher, 1, 1, 1)
    flight = runner.begin(batcher.take())
    assert runner.followed_by(flight) == 0
    runner.end(flight)


def test_a_batch_is_not_charged_for_the_one_before_it(runner, monkeypatch):
    """Else who waits is told twice as long, and the longest forward, from which the watchdog's limit comes, grows."""
    runner, batcher = runner
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    add(batcher, 1, 1, 1)
    first = runner.begin(batcher.take())
    add(batcher, 2, 2, 2)
    second = runner.begin(batcher.take())
    now[0] += 5
    runner.end(first)
    now[0] += 2
    [(_, answer)] = runner.end(second)
    assert (answer.queue_seconds, answer.forward_seconds) == (5, 2)
    assert (runner._pace.shortest("tiny", 2), runner._pace.longest("tiny")) == (2, 5)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([0.1, 1.5, 0.2, 0, 0], "The model returned 1.5 for this input where its card promises a probability"),
        ([-0.2, -0.1, -3, -1, -1], "The model returned -0.1 for this input"),
        ([0.1, float("nan"), 0.2, 0, 0], "The model returned NaN for this input."),
        ([0.1, float("inf"), 0.2, 0, 0], "The model returned inf for this input"),
    ],
)
def test_what_is_no_probability_fails_alone_where_the_model_makes_its_own(runner, row, words):
    runner, batcher = runner
    model = served(runner)
    model.adapter.head.activation = "none"
    rows = torch.tensor([[0.2] * 5, row])
    model.run_package(Package(lambda arrays: (rows,), 1), "a" * 64)
    add(batcher, 1, 1)
    add(batcher, 2, 2)
    good, bad = (frame for _, frame in runner.end(runner.begin(batcher.take())))
    assert isinstance(good, Result)
    assert (bad.error, bad.detail.startswith(words)) == ("model_output_invalid", True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda scores: scores[:, :4], "float32 of shape (1, 4) as scores for 1 example"),
        (lambda scores: scores.double(), "float64 of shape (1, 5) as scores"),
        (lambda scores: scores.sum(), "one float32 as scores"),
        (lambda scores: torch.cat([scores, scores]), "float32 of shape (2, 5) as scores"),
    ],
    ids=["shape", "dtype", "batch forgotten", "a row too many"],
)
def test_outputs_that_are_not_those_of_the_start_fail_the_example_that_has_them_and_no_other(runner, spoil, words):
    runner, batcher = runner
    device = Device()

    def forward(arrays):
        is_bad = arrays[0][:, 0, 0, 0] == BAD
        (scores,) = device.begin((arrays[0].where(arrays[0] != BAD, 0),))()
        return (spoil(scores) if is_bad.any() else scores,)

    served(runner).run_package(Package(forward, 1), "a" * 64)
    pictures = [1, 2, 3, BAD, 4, 3, 2, 1]
    for id, picture in enumerate(pictures):
        add(batcher, id, picture)
    answers = {request.id: (request, frame) for request, frame in runner.end(runner.begin(batcher.take()))}
    _, bad = answers.pop(3)
    assert bad.error == ModelOutputInvalid.name
    assert words in bad.detail
    assert classes(runner, answers.values()) == {id: [pictures[id]] for id in (0, 1, 2, 4, 5, 6, 7)}


def test_a_request_of_several_inputs_is_cut_at_the_same_examples_in_each():
    inputs = (TensorSpec("ids", "int16", (2,)), TensorSpec("weight", "float64"), TensorSpec("flags", "bool", (3,)))
    values = (torch.arange(8, dtype=torch.int16), torch.arange(4.0).double(), torch.arange(12) % 2 == 1)
    tensors = Tensors.of(*[value.view(torch.uint8).numpy().data for value in values])
    request = Request(1, "m", 4, FAR, payload=job_of(Infer(1, "m", 4, FAR, False, tensors), None, inputs))
    ids, weights, flags = part_blocks(Part(request, 1, 3))
    assert np.frombuffer(ids, np.int16).tolist() == [2, 3, 4, 5]
    assert np.frombuffer(weights, np.float64).tolist() == [1, 2]
    assert np.frombuffer(flags, np.bool_).tolist() == values[2][3:9].tolist()
    assert part_blocks(Part(request, 0, 4)) == request.payload.blocks
