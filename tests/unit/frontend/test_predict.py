"""A request from its body to its answer, with engines that do as a test says."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import numpy as np
import pytest

from service.errors import DeadlineExceeded
from service.frontend.accounts import Accounts
from service.frontend.applications import FrontEnd
from service.frontend.engines.client import Client, InputChangedError
from service.frontend.engines.known import Known
from service.frontend.engines.places import Outlook, Places
from service.frontend.predict import MOST_INPUT_CHANGES, Predictor
from service.frontend.protocols.native import NativeExchange
from service.frontend.protocols.protocol import Asked, Sides
from service.host.metric_memory import make_metric_memory
from service.metrics import Metrics
from service.settings import Settings
from service.signature import Signature, TensorSpec
from service.tasks.inputs.numbers import DTYPES
from service.tasks.inputs.picture_bodies import PictureInput
from service.tasks.outputs.classes import ClassesOutput
from service.wire.messages import ModelState, Result, Tensors
from service.wire.specs import FrontEndSpec

X = TensorSpec("x", "float32", (2,))
SUM = TensorSpec("sum", "float32", (1,))
STATE = ModelState(
    "m",
    "ready",
    version="v1",
    task="tensor",
    signature=Signature((X,), (SUM,)),
    input_kind="tensors",
    decoded_for="x",
)
BODY = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
NPY, NPZ = "application/x-npy", "application/x-npz"


class Elsewhere(Client):
    """Gives, for each output, as many numbers as there are examples, unless a test has something else done first.

    Attributes:
        asked: the model and the arrays of each request.
        held: the bytes of each.
        first: what is called with each request; it may raise, or give the model that answers.
    """

    def __init__(self, known: Known) -> None:
        self.known = known
        self.places = Places(8, 1 << 20)
        self.asked = []
        self.held = []
        self.first: Callable = lambda state: state

    def is_up(self, model):
        return True

    def want(self, model):
        raise AssertionError

    def admit(self, model, count, nbytes, deadline):
        self.held.append((count, nbytes))
        return self.places.hold(count, nbytes, Outlook(), deadline)

    async def infer(self, state, count, arrays, deadline):
        self.asked.append((state, arrays))
        state = self.first(state)
        outputs = [outputs_of(spec, count) for spec in state.signature.outputs]
        return Result(0, Tensors.of(*[output.data for output in outputs]), 0.0, 0.0, 0.0, 0.0), state


def outputs_of(spec, count):
    return np.arange(count * int(np.prod(spec.shape))).reshape(count, *spec.shape).astype(DTYPES[spec.dtype])


class Scene:
    """A front end for one model, and its client."""

    def __init__(self, state: ModelState = STATE) -> None:
        spec = FrontEndSpec(0, 0, "m", {"m": True}, make_metric_memory(), Settings())
        known = Known.before_any_engine(spec)
        known.models["m"] = state
        self.client = Elsewhere(known)
        (self._app,) = FrontEnd(spec, Metrics("frontend-0", spec.metrics), self.client, None).applications(apart=False)

    def post(self, content: bytes, kind: str = NPY, accept: str = "", query: str = "") -> httpx.Response:
        headers = {"Content-Type": kind, "Accept": accept} if accept else {"Content-Type": kind}

        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await client.post(f"/predict{query}", content=content, headers=headers)

        return asyncio.run(asked())


def npy(array=BODY):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_outputs(*specs):
    return msgspec.structs.replace(STATE, signature=Signature((X,), specs))


def test_an_answer_in_json_says_which_model_it_is_of_in_its_body_and_nowhere_else():
    answer = Scene().post(npy())
    assert answer.json()["predictions"] == [{"outputs": {"sum": [number]}} for number in (0.0, 1.0, 2.0)]
    assert (answer.json()["model"], answer.json()["version"]) == ("m", "v1")
    assert answer.headers["content-type"] == "application/json"
    assert not [name for name in answer.headers if name.startswith("x-gradless")]


def test_an_answer_in_npy_says_it_in_its_headers():
    answer = Scene().post(npy(), accept=NPY)
    assert answer.status_code == 200
    assert np.load(io.BytesIO(answer.content)).tolist() == [[0], [1], [2]]
    assert answer.headers["content-type"] == NPY
    assert (answer.headers["x-gradless-model"], answer.headers["x-gradless-version"]) == ("m", "v1")
    assert answer.headers["content-length"] == str(len(answer.content))
    assert "forward;dur=" in answer.headers["server-timing"]
    assert "x-request-id" in answer.headers


def test_an_answer_in_npz_has_every_output_by_its_name_in_its_dtype():
    scene = Scene(with_outputs(TensorSpec("file", "int64"), TensorSpec("b", "float16", (2, 1))))
    answer = scene.post(npy(), accept=NPZ)
    found = np.load(io.BytesIO(answer.content))
    assert {name: (found[name].dtype, found[name].tolist()) for name in found} == {
        "file": (np.int64, [0, 1, 2]),
        "b": (np.float16, [[[0], [1]], [[2], [3]], [[4], [5]]]),
    }
    assert (answer.headers["content-type"], answer.headers["x-gradless-version"]) == (NPZ, "v1")


def test_what_nobody_can_write_is_refused_before_the_body_is_read_and_any_engine_asked():
    scene = Scene()
    answer = scene.post(b"no npy", accept="image/png")
    assert (answer.status_code, answer.json()["type"]) == (406, "urn:gradless:problem:not_acceptable")
    assert not scene.client.asked


def test_places_are_held_for_the_bytes_of_the_arrays_and_not_of_the_body():
    scene = Scene()
    scene.post(json.dumps({"instances": BODY.tolist()}).encode(), "application/json")
    assert scene.client.held == [(3, 3 * X.nbytes)]
    assert scene.client.places.taken == 0


def test_a_body_is_read_again_for_a_model_that_takes_another_input_meanwhile():
    scene = Scene()
    ids = TensorSpec("ids", "int64", (2,))
    whole = msgspec.structs.replace(STATE, signature=Signature((ids,), (SUM,)), decoded_for="ids")

    def first(state):
        if state.decoded_for != "ids":
            scene.client.known.models["m"] = whole
            raise InputChangedError
        return state

    scene.client.first = first
    answer = scene.post(b'{"instances": [[1, 2], [3, 4]]}', "application/json")
    assert answer.status_code == 200
    (_, [floats]), (_, [ints]) = scene.client.asked
    assert (floats.dtype, ints.dtype, ints.tolist()) == (np.float32, np.int64, [[1, 2], [3, 4]])


def test_a_model_that_takes_another_input_again_and_again_is_not_ready():
    scene = Scene()

    def first(state):
        raise InputChangedError

    scene.client.first = first
    answer = scene.post(npy())
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:gradless:problem:not_ready")
    assert len(scene.client.asked) == MOST_INPUT_CHANGES


def test_a_model_that_has_become_a_classifier_meanwhile_answers_as_one():
    """What a request may wish for is its own for each task."""
    results = TensorSpec("probabilities", "float32", (3,)), TensorSpec("ids", "int32", (3,))
    classifier = msgspec.structs.replace(
        STATE,
        version="v2",
        task="classification",
        signature=Signature((X,), results),
        answer={"labels": ["cat", "dog", "cow"]},
    )
    scene = Scene()
    scene.client.first = lambda state: classifier
    answer = scene.post(npy(BODY[:1]))
    assert (answer.status_code, answer.json()["version"]) == (200, "v2")
    assert [each["label"] for each in answer.json()["predictions"][0]["classes"]] == ["cat", "dog", "cow"]


def test_an_option_that_the_model_does_not_have_is_refused():
    answer = Scene().post(npy(), query="?top_k=3")
    assert (answer.status_code, "top_k is for the classes of a classifier" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=B"])
def test_nobody_waits_for_a_large_body_past_the_deadline(kind):
    spec = {"resize": 8, "crop": 8, "mean": [127.5] * 3, "std": [127.5] * 3}
    reader = PictureInput(spec, Signature((TensorSpec("image", "uint8", (3, 8, 8)),)), 10**6)
    body = json.dumps({"instances": [[[[1, 2, 3]] * 100] * 1000]}).encode()

    async def read():
        accounts = Accounts(Metrics("frontend-0", make_metric_memory()))
        with ThreadPoolExecutor(1) as pool:
            predictor = Predictor(Elsewhere(Known("", {})), pool, Settings(), accounts, None)
            asked = Asked({"content-type": kind})
            exchange = NativeExchange(asked, Sides(reader, None, ClassesOutput()), ModelState("m", "ready"))
            await predictor._read(exchange, body, time.monotonic())

    with pytest.raises(DeadlineExceeded, match="while its body was being read"):
        asyncio.run(read())
