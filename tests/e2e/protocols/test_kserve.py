"""kserve's REST client, protocols v1 and v2, in an environment of its own, against a server of ours.

Its dependencies take half a minute to install, once; one process then makes all calls.
"""

from __future__ import annotations

import base64

import httpx
import numpy as np
import pytest
import torch

from service.loader.load import load
from service.loader.repository import find_models
from tests.support import client_venvs
from tests.support.models import direct, make_models, make_trivial, photographs
from tests.support.server import Server, started_unready, wait_for
from tests.support.tensor_models import make_tensor_models, table

ROWS = table()[0][:3]
IMAGES = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
USER, ITEMS = torch.arange(3) * 300, torch.arange(60).reshape(3, 20)
#: A model that cannot be loaded: the server is ready without it.
BROKEN = (
    'task = "tensor"\nrequired = {required}\nweights = "random:1"\narchitecture = "net:net"\n[inputs.x]\nshape = [4]\n'
)


def make_broken(root, required):
    make_models(root, broken=BROKEN.format(required=required))
    (root / "broken" / "net.py").write_text('def net():\n    raise RuntimeError("it does not build")\n')
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = make_tensor_models(
        tmp_path_factory.mktemp("kserve") / "models", "breast_cancer", "recommender", "autoencoder"
    )
    return make_broken(make_trivial(root), required="false")


@pytest.fixture(scope="module")
def modules(models):
    """Each model without a server."""
    names = ("breast_cancer", "recommender", "autoencoder")
    return {name: load(folder).module for name, folder in find_models(models).items() if name in names}


@pytest.fixture(scope="module")
def unready(tmp_path_factory):
    """A server that is live and not ready."""
    with started_unready() as start:
        yield start(make_broken(tmp_path_factory.mktemp("unready") / "models", required="true"))


@pytest.fixture(scope="module")
def answers(models, unready):
    """What each call of the client returned or raised, by its name."""
    with Server(models, "--default-model", "breast_cancer") as running:
        running.started()
        wait_for(lambda: "not build" in httpx.get(f"{unready.url}/v2/health/ready").text, 60, "a model that failed")
        found = client_venvs.run("kserve", calls=dict(calls(running.url, unready.url)))
        for path in ("/v1/models/broken", "/v2/models/broken/ready"):
            found[path] = httpx.get(f"{running.url}{path}").status_code
        assert running.stop() == 0
    return found


def calls(url, unready):
    def call(protocol, method, url=url, **arguments):
        return {"protocol": protocol, "method": method, "url": url, "arguments": arguments}

    def infer(model, *inputs, **more):
        return call("v2", "infer", model_name=model) | {"inputs": inputs} | more

    for protocol in ("v1", "v2"):
        yield f"{protocol} live", call(protocol, "is_server_live")
        yield f"{protocol} live though not ready", call(protocol, "is_server_live", unready)
        for model in ("breast_cancer", "broken", "absent"):
            yield f"{protocol} {model} ready", call(protocol, "is_model_ready", model_name=model)
        yield f"{protocol} wrong", call(protocol, "infer", model_name="breast_cancer", data=WRONG[protocol])
        yield f"{protocol} absent", call(protocol, "infer", model_name="absent", data=WRONG[protocol])
        yield f"{protocol} broken", call(protocol, "infer", model_name="broken", data=WRONG[protocol])
    yield "v2 ready", call("v2", "is_server_ready")
    yield "v2 not ready", call("v2", "is_server_ready", unready)
    file = base64.b64encode(photographs()[0]).decode()
    yield "v1 rows", call("v1", "infer", model_name="breast_cancer", data={"instances": ROWS.tolist()})
    named = [{"user": int(u), "items": i.tolist()} for u, i in zip(USER, ITEMS, strict=True)]
    yield "v1 names", call("v1", "infer", model_name="recommender", data={"instances": named})
    body = {"instances": [{"b64": file}], "parameters": {"top_k": 3}}
    yield "v1 picture", call("v1", "infer", model_name="trivial", data=body)
    for name, is_binary in (("JSON", False), ("binary", True)):
        how = {"outputs": [["output", {"binary_data": is_binary}]], "id": f"of {name}"}
        yield f"v2 rows {name}", infer("breast_cancer", tensor("features", "FP32", ROWS, is_binary), **how)
        pair = tensor("items", "INT64", ITEMS, is_binary), tensor("user", "INT64", USER, is_binary)
        yield f"v2 names {name}", infer("recommender", *pair, parameters={"binary_data_output": is_binary})
        yield f"v2 large {name}", infer("autoencoder", tensor("image", "FP32", IMAGES, is_binary))
        image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [file], "is_binary": is_binary}
        yield f"v2 picture {name}", infer("trivial", image, parameters={"binary_data_output": is_binary})
    both = tensor("image", "FP32", IMAGES, True)
    yield "v2 large both", infer("autoencoder", both, parameters={"binary_data_output": True})


WRONG = {
    "v1": {"instances": [[1.0, 2.0]]},
    "v2": {"inputs": [{"name": "features", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]},
}


def tensor(name, datatype, values, is_binary):
    shape = list(values.shape)
    return {"name": name, "datatype": datatype, "shape": shape, "data": values.tolist(), "is_binary": is_binary}


def forward(module, *inputs, **named):
    with torch.inference_mode():
        found = module(*inputs, **named)
    return (found["scores"] if isinstance(found, dict) else found).numpy()


def output(answers, call, name):
    answer = answers[call]["returned"]["outputs"][name]
    return np.array(answer["data"]).reshape(answer["shape"])


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_the_server_is_live_whether_it_is_ready_or_not(answers, protocol):
    assert answers[f"{protocol} live"] == {"returned": True}
    assert answers[f"{protocol} live though not ready"] == {"returned": True}


def test_the_server_is_ready_or_the_client_raises_with_the_reason(answers):
    assert answers["v2 ready"] == {"returned": True}
    assert answers["v2 not ready"]["raised"] == "HTTPStatusError"
    assert "503" in answers["v2 not ready"]["words"]
    assert "it does not build" in answers["v2 not ready"]["words"]


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_a_model_is_ready_or_not(answers, protocol):
    """The status says so as well, which the client does not need."""
    assert answers[f"{protocol} breast_cancer ready"] == {"returned": True}
    assert answers[f"{protocol} broken ready"] == {"returned": False}
    assert answers["/v1/models/broken"] == answers["/v2/models/broken/ready"] == 503


def test_a_model_that_does_not_exist_is_not_ready(answers):
    """In v1 the client raises what is no 503; in v2 all but 2xx is False."""
    assert answers["v1 absent ready"]["raised"] == "HTTPStatusError"
    assert "404" in answers["v1 absent ready"]["words"]
    assert answers["v2 absent ready"] == {"returned": False}


@pytest.mark.parametrize("protocol", ["v1", "v2"])
@pytest.mark.parametrize(
    ("call", "status", "said"),
    [
        ("wrong", {"v1": "422", "v2": "400"}, "30"),
        ("absent", "404", "'absent'"),
        ("broken", "503", "it does not build"),
    ],
)
def test_a_refusal_is_raised_with_our_words(answers, protocol, call, status, said):
    answer = answers[f"{protocol} {call}"]
    assert answer["raised"] == "HTTPStatusError"
    assert (status[protocol] if isinstance(status, dict) else status) in answer["words"]
    assert said in answer["words"]


def test_v1_gives_the_numbers_of_the_direct_forward(answers, modules):
    rows = answers["v1 rows"]["returned"]["predictions"]
    np.testing.assert_allclose(rows, forward(modules["breast_cancer"], ROWS), rtol=1e-5, atol=1e-5)
    named = answers["v1 names"]["returned"]["predictions"]
    scores = forward(modules["recommender"], user=USER, items=ITEMS)
    np.testing.assert_allclose(named, scores, rtol=1e-5, atol=1e-5)


def test_v1_gives_the_classes_of_a_picture(answers, models):
    (prediction,) = answers["v1 picture"]["returned"]["predictions"]
    expected = direct(models, "trivial").probabilities(photographs()[0])
    assert [each["id"] for each in prediction["classes"]] == expected.topk(3).indices.tolist()
    given = [each["probability"] for each in prediction["classes"]]
    np.testing.assert_allclose(given, expected.topk(3).values, atol=1e-4)


@pytest.mark.parametrize("form", ["JSON", "binary"])
def test_v2_gives_the_numbers_of_the_direct_forward(answers, modules, form):
    answer = answers[f"v2 rows {form}"]["returned"]
    assert (answer["model"], answer["id"]) == ("breast_cancer", f"of {form}")
    wanted = forward(modules["breast_cancer"], ROWS)
    np.testing.assert_allclose(output(answers, f"v2 rows {form}", "output"), wanted, rtol=1e-5, atol=1e-5)
    wanted = forward(modules["recommender"], user=USER, items=ITEMS)
    np.testing.assert_allclose(output(answers, f"v2 names {form}", "scores"), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["JSON", "binary", "both"])
def test_v2_reads_an_answer_that_httpx_has_asked_for_in_gzip(answers, modules, form):
    """The length of the JSON is that before compression; of 6 KB the answer is compressed."""
    wanted = forward(modules["autoencoder"], IMAGES)
    np.testing.assert_allclose(output(answers, f"v2 large {form}", "image"), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["JSON", "binary"])
def test_v2_gives_the_classes_of_a_picture(answers, models, form):
    expected = direct(models, "trivial").probabilities(photographs()[0])
    ids = output(answers, f"v2 picture {form}", "ids")
    assert ids.tolist() == [expected.argsort(descending=True).tolist()]
    probabilities = output(answers, f"v2 picture {form}", "probabilities")
    np.testing.assert_allclose(probabilities[0], expected[ids[0]], atol=1e-4)
    assert answers[f"v2 picture {form}"]["returned"]["outputs"]["labels"]["shape"] == [1, 10]
