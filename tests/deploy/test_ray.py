"""Gradless on a real Ray cluster of three nodes on this machine, as `deploy/ray` ships it."""

from __future__ import annotations

import asyncio
import importlib.util
import pickle
import signal
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import httpx
import msgspec
import numpy as np
import pytest

from service.errors import InputCrashesModel, ModelFailed, NotReady, NotReplayed
from service.frontend.engines.blame import KILLS_FOR_A_STRIKE
from service.frontend.engines.client import InputChangedError
from service.frontend.engines.known import Known
from service.host.metric_memory import make_metric_memory
from service.loader.report import Report, RuleResult
from service.metrics import Metrics
from service.settings import Settings
from service.wire.messages import Failure, ModelState, Result, Tensors
from tests.support.models import SMALL, assert_right, direct, make_models, photographs
from tests.support.ray import MISSING, SHIPPED, RayCluster, is_missing
from tests.support.server import wait_for
from tests.support.tensor_models import make_tensor_models
from tests.support.tiny import tiny_at
from tests.support.traffic import JPEG, Traffic

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(is_missing(), reason=MISSING),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:::ray"),
]

CLIENTS = 8
RECOMMEND = "/models/recommender/predict"

#: Forwards take longer than all else, so that some requests are always in one, or wait for one. Who comes first after a
#: test has put a file there takes it away and does what the test says; that is one engine, and proven by then.
TRICKED = """\
import time
from pathlib import Path

from torch import nn


class Tricked(nn.Sequential):
    def forward(self, x):
        time.sleep(0.1)
        try:
            Path({trigger!r}).unlink()
        except FileNotFoundError:
            return super().forward(x)
        {trick}
        return super().forward(x)


def tiny():
    return Tricked(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, 5))
"""
#: `repeatable` is the rule that sees it.
DROPS_ALWAYS = """\
from torch import nn
from torch.nn import functional


class Drops(nn.Sequential):
    def forward(self, x):
        return functional.dropout(super().forward(x))


def tiny():
    return Drops(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(12, 5))
"""


@pytest.fixture
def cluster():
    with RayCluster(nodes=2, cpus=2) as running:
        yield running


def small(root: Path) -> Path:
    return make_models(root, small=SMALL.format(seed=1))


def tricked(folder: Path, trick: str = "pass") -> tuple[Path, Path]:
    """A models folder, and the file that makes the next forward do the trick."""
    trigger = folder / "now"
    models = folder / "models"
    code = TRICKED.format(trigger=str(trigger), trick=trick)
    tiny_at(models, "random:1", "batching = { max_batch_size = 2 }", code=code)
    return models, trigger


# On a cluster


def test_a_client_is_answered_as_by_gradless_serve(cluster, serve, tmp_path):
    models = make_tensor_models(small(tmp_path / "models"), "recommender")
    cluster.deploy(models, default_model="small")
    cluster.wait_until_serving()
    alone = serve(models, "--default-model", "small")
    alone.wait_ready()
    one, two = photographs()[:2]
    requests = [
        ("/predict", {"content": one, "headers": JPEG}),
        ("/models/small/predict?top_k=3", {"files": [("file", ("a.jpg", one)), ("file", ("b.jpg", two))]}),
        ("/predict", {"content": b"no picture", "headers": JPEG}),
        ("/predict", {"content": one, "headers": {"Content-Type": "text/plain"}}),
        ("/predict", {"content": b"", "headers": JPEG}),
        ("/predict", {"json": {"instances": [[[[1, 2]]]]}}),
        ("/predict?top_k=0", {"content": one, "headers": JPEG}),
        ("/predict", {"content": one, "headers": {**JPEG, "X-Timeout-Ms": "soon"}}),
        ("/models/other/predict", {"content": one, "headers": JPEG}),
        ("/nowhere", {"content": one, "headers": JPEG}),
        (RECOMMEND, {"json": {"instances": [{"user": 1, "items": [*range(20)]}, {"user": 999, "items": [499] * 20}]}}),
        (RECOMMEND, {"json": {"instances": [{"user": 1.5, "items": [*range(20)]}]}}),
        (RECOMMEND, {"content": one, "headers": JPEG}),
    ]
    pictures = {0: [one], 1: [one, two]}
    model = direct(models, "small")
    for number, (path, request) in enumerate(requests):
        expected = httpx.post(f"{alone.url}{path}", timeout=30, **request)
        found = httpx.post(f"{cluster.url}{path}", timeout=30, **request)
        assert found.status_code == expected.status_code
        assert found.headers["content-type"] == expected.headers["content-type"]
        assert len(found.headers.get_list("x-request-id")) == 1
        if path == RECOMMEND and found.status_code == 200:
            theirs, ours = ([each["outputs"]["scores"] for each in a.json()["predictions"]] for a in (found, expected))
            assert np.shape(theirs) == (2, 20)
            np.testing.assert_allclose(theirs, ours, atol=1e-6)
        elif found.status_code == 200:
            assert_right(found.json(), model, *pictures[number])
            assert "forward;dur=" in found.headers["server-timing"]
        else:
            assert found.json().pop("request_id") == found.headers["x-request-id"]
            assert found.json() | {"request_id": ""} == expected.json() | {"request_id": ""}
    reload = httpx.post(f"{cluster.url}/models/reload", timeout=30)
    assert (reload.status_code, "serve deploy" in reload.json()["detail"]) == (405, True)
    assert httpx.get(f"{cluster.url}/models/small/proof", timeout=30).json()["passed"]


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent"])
def test_a_node_that_is_lost_under_load_takes_no_request_with_it(cluster, tmp_path, blow):
    told = tmp_path / "node"
    tell = f"import ray; Path({str(told)!r}).write_text(ray.get_runtime_context().get_node_id()); time.sleep(3600)"
    models, trigger = tricked(tmp_path, tell)
    cluster.deploy(models, {"min_replicas": 2, "max_replicas": 2})
    cluster.wait_until_serving()
    engines = cluster.wait_for_engines(2)
    assert len(set(engines.values())) == 2, "both engines are on one node"
    assert not set(cluster.running("Door").values()) & set(engines.values()), "the door is not on the head"
    with Traffic(cluster, CLIENTS) as traffic:
        traffic.wait_for_answers(10 * CLIENTS)
        trigger.touch()
        node = wait_for(lambda: told.exists() and told.read_text(), 30, "a node with a forward that will not end")
        cluster.strike(node, blow)
        traffic.wait_for_answers(10 * CLIENTS)
        cluster.wait_for_engines(2, other_than=[engine for engine in engines if engines[engine] == node])
        traffic.wait_for_answers(10 * CLIENTS)
        assert_none_refused(traffic)
    traffic.assert_all_right(direct(models, "tiny"))
    replayed = cluster.metric("gradless_replayed_requests_total")
    assert replayed > 0
    print(f"{len(traffic.answers)} answered, {replayed:g} sent again, 0 failed")


def assert_none_refused(traffic: Traffic) -> None:
    """Its clients end quietly when a connection is refused; here that is a failure too."""
    assert all(thread.is_alive() for thread in traffic._threads)


def test_an_engine_whose_weights_are_written_to_is_replaced_before_it_answers_wrongly(cluster, tmp_path):
    models, trigger = tricked(tmp_path, "self[2].weight.mul_(-1.0)")
    cluster.deploy(models, {"min_replicas": 2, "max_replicas": 2})
    cluster.wait_until_serving()
    engines = cluster.wait_for_engines(2)
    with Traffic(cluster, CLIENTS) as traffic:
        traffic.wait_for_answers(10 * CLIENTS)
        trigger.touch()
        wait_for(lambda: len(engines.keys() - cluster.running("Engine").keys()) == 1, 60, "the end of one engine")
        cluster.wait_for_engines(2)
        traffic.wait_for_answers(10 * CLIENTS)
        assert_none_refused(traffic)
    traffic.assert_all_right(direct(models, "tiny"))
    replayed = cluster.metric("gradless_replayed_requests_total")
    assert replayed > 0
    assert cluster.logged('"event": "model caught"')
    print(f"{len(traffic.answers)} answered, {replayed:g} sent again, 0 failed")


def test_an_engine_whose_forward_does_not_end_is_replaced(cluster, tmp_path):
    models, trigger = tricked(tmp_path, "time.sleep(3600)")
    cluster.deploy(models, watchdog_seconds=5)
    cluster.wait_until_serving()
    engines = cluster.wait_for_engines(1)
    with Traffic(cluster, CLIENTS) as traffic:
        traffic.wait_for_answers(CLIENTS)
        trigger.touch()
        wait_for(lambda: not trigger.exists(), 30, "a forward that does not end")
        impatient = {"content": photographs()[0], "headers": {**JPEG, "X-Timeout-Ms": "300"}}
        late = httpx.post(f"{cluster.url}/predict", timeout=30, **impatient)
        assert (late.status_code, late.json()["type"]) == (504, "urn:gradless:problem:deadline_exceeded")
        assert not cluster.logged("engine ended by the watchdog"), "who gave no answer was waited for"
        cluster.wait_for_engines(1, other_than=engines)
        traffic.wait_for_answers(10 * CLIENTS)
        assert_none_refused(traffic)
    traffic.assert_all_right(direct(models, "tiny"))
    assert cluster.logged("engine ended by the watchdog")


def test_a_model_that_fails_its_proof_never_serves_and_the_next_deployment_does(cluster, tmp_path):
    tiny_at(tmp_path / "wrong", code=DROPS_ALWAYS)
    tiny_at(tmp_path / "right")
    cluster.deploy(tmp_path / "wrong")

    def has_failed() -> bool:
        status = cluster.application()["status"]
        assert status in ("DEPLOYING", "DEPLOY_FAILED")
        return status == "DEPLOY_FAILED"

    wait_for(has_failed, 240, "the deployment has failed")
    assert cluster.running("Engine") == {}
    assert "the proof failed: repeatable" in cluster.application()["deployments"]["Engine"]["message"]
    picture = {"content": photographs()[0], "headers": JPEG, "timeout": 30}
    answer = wait_for(lambda: told(httpx.post(f"{cluster.url}/predict", **picture)), 30, "that it has failed")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:gradless:problem:not_ready")
    cluster.deploy(tmp_path / "right")
    cluster.wait_until_serving()
    answer = httpx.post(f"{cluster.url}/predict", **picture)
    assert_right(answer.json(), direct(tmp_path / "right", "tiny"), photographs()[0])


def told(answer: httpx.Response) -> httpx.Response | None:
    """The answer, once it says where the reason is."""
    return answer if "serve status" in answer.text else None


def test_load_adds_engines_and_quiet_takes_them_away_without_losing_a_request(cluster, tmp_path):
    models, _ = tricked(tmp_path)
    quick = {"metrics_interval_s": 0.2, "look_back_period_s": 2, "upscale_delay_s": 1, "downscale_delay_s": 2}
    cluster.deploy(models, {"max_replicas": 3, "target_ongoing_requests": 2, **quick})
    cluster.wait_until_serving()
    cluster.wait_for_engines(1)
    model = direct(models, "tiny")
    with Traffic(cluster, CLIENTS) as load:
        engines = cluster.wait_for_engines(3)
        load.wait_for_answers(10 * CLIENTS)
        assert_none_refused(load)
    load.assert_all_right(model)
    assert len(set(engines.values())) == 2, "all engines are on one node"
    with Traffic(cluster, 1, pause=0.1) as quiet:
        cluster.wait_for_engines(1)
        quiet.wait_for_answers(5)
        assert_none_refused(quiet)
    quiet.assert_all_right(model)
    print(f"{len(load.answers)} answered while engines came, {len(quiet.answers)} while they went, 0 failed")


# The client, with a handle that does as a test says

STATE = ModelState("tiny", "ready", version="v1", decoded_for="pictures of 8 pixels")
RESULT = Result(0, Tensors(b"numbers"), 0.0, 0.0, 0.0, 0.0)
ARRAYS = (np.zeros((2, 3, 8, 8), np.uint8), np.array([0.5, 1.5], np.float32))


class Asked:
    """What `infer` was called with, and what it then gives: a value, or an exception that is raised."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.calls: list[tuple] = []
        self.infer = SimpleNamespace(remote=self._infer)

    async def _infer(self, *words: object) -> object:
        self.calls.append(words)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def gradless_ray() -> ModuleType:
    """The shipped file, which is in no package."""
    spec = importlib.util.spec_from_file_location("gradless_ray", SHIPPED / "gradless_ray.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ask(handle: Asked, state: ModelState = STATE, seconds: float = 30.0):
    known = Known("", {state.name: state})
    client = gradless_ray().RayClient(handle, known, Settings(), Metrics("test", make_metric_memory()))
    return client, asyncio.run(client.infer(state, 2, ARRAYS, time.monotonic() + seconds))


def died(times: int) -> list[Exception]:
    from ray.exceptions import ActorDiedError, ActorUnavailableError

    return [ActorUnavailableError("gone", None) if n % 2 else ActorDiedError() for n in range(times)]


def test_a_request_goes_alone_after_a_second_death():
    handle = Asked(*died(3), (RESULT, None))
    _, (answer, state) = ask(handle)
    assert (answer, state) == (RESULT, STATE)
    assert [frame.alone for frame, *_ in handle.calls] == [False, False, True, True]
    assert all(0 < seconds <= 30 for _, seconds, *_ in handle.calls)
    assert all(words[2:] == (STATE.version, STATE.decoded_for) for words in handle.calls)


def test_a_request_is_pickled_with_its_arrays_as_an_engine_lays_them_out():
    handle = Asked((RESULT, None))
    ask(handle)
    [(frame, *_)] = handle.calls
    again = pickle.loads(pickle.dumps(frame))
    assert (again.count, bytes(again.tensors.data)) == (2, ARRAYS[0].tobytes() + ARRAYS[1].tobytes())


def test_an_input_under_which_engines_die_again_and_again_gets_the_blame():
    with pytest.raises(InputCrashesModel):
        ask(Asked(*died(KILLS_FOR_A_STRIKE)))


def test_a_model_that_is_not_repeatable_is_not_asked_twice():
    report = Report([RuleResult("repeatable", False, "", waived="It draws.")], None, "")  # type: ignore[arg-type]
    with pytest.raises(NotReplayed):
        ask(Asked(*died(1)), msgspec.structs.replace(STATE, report=report))


def test_another_version_that_takes_the_same_input_answers():
    other = msgspec.structs.replace(STATE, version="v2")
    client, (_, state) = ask(Asked((RESULT, other)))
    assert (state.version, client.known.models["tiny"].version) == ("v2", "v2")


def test_a_request_is_decoded_again_for_a_version_that_takes_another_input():
    other = msgspec.structs.replace(STATE, version="v2", decoded_for="pictures of 16 pixels")
    with pytest.raises(InputChangedError):
        ask(Asked((None, other)))


def test_what_an_engine_refuses_is_refused():
    with pytest.raises(ModelFailed, match="It raised"):
        ask(Asked((Failure(0, "model_failed", "It raised."), None)))


def test_a_deployment_that_has_failed_is_told_as_not_ready():
    from ray.serve.exceptions import DeploymentUnavailableError

    with pytest.raises(NotReady):
        ask(Asked(DeploymentUnavailableError("Engine")))
