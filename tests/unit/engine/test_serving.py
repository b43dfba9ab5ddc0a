"""A model that has been opened is served: what waits is answered, what is late is told, and the rest is forecast."""

import time

import pytest
import torch

from service.engine.batcher import Batcher, Request
from service.engine.bring_up import Proven
from service.engine.bring_up_order import BringUpOrder
from service.engine.inbox import Inbox
from service.engine.job import job_of
from service.engine.model import ServedModel
from service.engine.serving import Serving
from service.errors import DeadlineExceeded
from service.host.metric_memory import make_metric_memory
from service.loader.load import load
from service.metrics import Metrics
from service.wire.aboard import Aboard, make_aboard_file
from service.wire.messages import Failure, Infer, Result, Tensors
from tests.support.tiny import tiny

FAR = 1e9


class Scene:
    """Serving beside its inbox, and all that it has delivered."""

    def __init__(self, root):
        batcher = Batcher({})
        self.inbox = Inbox(batcher, BringUpOrder([], ""))
        self.delivered = []
        metrics = Metrics("engine-cpu-a", make_metric_memory())
        aboard = Aboard(make_aboard_file())
        self.serving = Serving(batcher, self.inbox, aboard, 60, metrics, self.delivered.append)
        self._root = root

    def open(self, name, cold=()):
        folder = tiny(self._root / name)
        with torch.inference_mode(False):
            self.model = ServedModel(load(folder), torch.device("cpu"))
        proven = Proven(self.model, self.model.guard(), {1: 0.5, 8: 2.0}, list(cold))
        return self.serving.open(name, proven)

    def submit(self, id, name, count=1, deadline=FAR):
        tensors = Tensors(bytes(count * self.model.signature.example_bytes))
        request = Request(id, name, count, deadline)
        request.payload = job_of(Infer(id, name, count, deadline, False, tensors), None, self.model.signature.inputs)
        self.inbox.submit(request)

    @property
    def answers(self):
        return {request.id: frame for batch in self.delivered for request, frame in batch}


@pytest.fixture
def scene(tmp_path):
    with torch.inference_mode():
        yield Scene(tmp_path)


def test_an_opened_model_answers_and_says_what_an_example_costs(scene):
    assert scene.open("one") == pytest.approx(2.0 / 8)
    scene.submit(1, "one")
    scene.serving.step()
    assert isinstance(scene.answers[1], Result)
    assert scene.answers[1].backlog_seconds == 0


def test_in_one_turn_each_model_runs_one_batch_and_says_how_long_the_rest_will_take(scene):
    scene.open("one")
    scene.open("other")
    for id in range(3):
        scene.submit(id, "one", 8)
    scene.submit(3, "other")
    scene.serving.answer_a_turn()
    assert sorted(scene.answers) == [0, 3]
    assert scene.answers[0].backlog_seconds > 0


def test_a_request_past_its_deadline_is_told_so_and_never_runs(scene):
    scene.open("one")
    scene.submit(1, "one", deadline=time.monotonic() - 1)
    scene.submit(2, "one")
    scene.serving.step()
    assert isinstance(scene.answers[1], Failure)
    assert scene.answers[1].error == DeadlineExceeded.name
    assert isinstance(scene.answers[2], Result)


def test_sizes_that_the_proof_left_out_are_warmed_up_while_nobody_waits(scene, monkeypatch):
    warmed = []
    monkeypatch.setattr(ServedModel, "warm_up", lambda model, sizes: warmed.extend(sizes))
    scene.open("one", cold=[2, 4])
    scene.serving.step()
    scene.serving.step()
    assert warmed == [4, 2]
