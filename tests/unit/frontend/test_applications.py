"""A front end is handed its engines and its supervisor, and asks nobody else."""

from __future__ import annotations

import asyncio

import httpx
import numpy as np
import pytest

from service.errors import MethodNotAllowed
from service.frontend.applications import FrontEnd
from service.frontend.engines.client import Client
from service.frontend.engines.known import Known
from service.frontend.engines.places import Outlook, Places
from service.host.metric_memory import make_metric_memory
from service.metrics import Metrics
from service.settings import Settings
from service.signature import Signature, TensorSpec
from service.wire.messages import ModelState, Reload, Result, Tensors
from service.wire.specs import FrontEndSpec
from tests.support.models import photographs

SIGNATURE = Signature(
    (TensorSpec("image", "uint8", (3, 8, 8)),),
    (TensorSpec("probabilities", "float32", (3,)), TensorSpec("ids", "int32", (3,))),
)
INPUT = {"resize": 8, "crop": 8, "mean": [127.5] * 3, "std": [127.5] * 3}


class ElsewhereClient(Client):
    """Answers by itself: the second of three classes."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.places = Places(8, 1 << 20)

    def is_up(self, model):
        return True

    def want(self, model):
        raise AssertionError

    def admit(self, model, count, nbytes, deadline):
        assert nbytes == count * 3 * 8 * 8
        return self.places.hold(count, nbytes, Outlook(), deadline)

    async def infer(self, state, count, arrays, deadline):
        [pixels] = arrays
        assert (count, pixels.shape, pixels.dtype, self.places.taken) == (1, (1, 3, 8, 8), np.uint8, 1)
        probabilities, ids = np.array([[0.5, 0.3, 0.2]], np.float32), np.array([[1, 0, 2]], np.int32)
        return Result(0, Tensors.of(probabilities.data, ids.data), 0.0, 0.0, 0.0, 0.0), state


class ElsewhereSupervisor:
    def __init__(self) -> None:
        self.asked: list[Reload] = []

    def send(self, frame, /):
        self.asked.append(frame)
        raise MethodNotAllowed("Reloads are somebody else's.")


@pytest.fixture
def front_end():
    spec = FrontEndSpec(0, 0, "m", {"m": True}, make_metric_memory(), Settings())
    known = Known.before_any_engine(spec)
    known.models["m"] = ModelState(
        "m",
        "ready",
        version="v",
        task="classification",
        signature=SIGNATURE,
        input_kind="picture",
        input=INPUT,
        answer={"labels": ["cat", "dog", "cow"]},
    )
    supervisor = ElsewhereSupervisor()
    return FrontEnd(spec, Metrics("frontend-0", spec.metrics), ElsewhereClient(known), supervisor), supervisor


def post(front_end: FrontEnd, path: str, **request) -> httpx.Response:
    async def asked() -> httpx.Response:
        (app,) = front_end.applications(apart=False)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.post(path, **request)

    return asyncio.run(asked())


def test_an_answer_is_that_of_the_client_it_was_handed(front_end):
    front_end, _ = front_end
    answer = post(front_end, "/predict?top_k=1", content=photographs()[0], headers={"Content-Type": "image/jpeg"})
    classes = [{"id": 1, "label": "dog", "probability": 0.5}]
    assert answer.json() == {"model": "m", "version": "v", "predictions": [{"classes": classes}]}


def test_a_reload_is_asked_of_the_supervisor_it_was_handed(front_end):
    front_end, supervisor = front_end
    answer = post(front_end, "/models/reload")
    assert (answer.status_code, answer.json()["detail"]) == (405, "Reloads are somebody else's.")
    assert supervisor.asked == [Reload()]
