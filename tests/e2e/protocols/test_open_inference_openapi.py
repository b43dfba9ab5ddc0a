"""The client that the protocol's working group generates from its OpenAPI document: it parses answers strictly."""

from __future__ import annotations

import asyncio
import base64

import numpy as np
import pydantic.v1
import pytest
import torch
from open_inference.openapi.client import AsyncOpenInferenceClient, InferenceRequest, OpenInferenceClient
from open_inference.openapi.core.api_error import ApiError
from open_inference.openapi.errors import BadRequestError, NotFoundError
from open_inference.openapi.types import (
    InferenceErrorResponse,
    InferenceResponse,
    MetadataModelResponse,
    MetadataServerResponse,
)

from service.loader.load import load
from service.loader.repository import find_models
from tests.support.models import direct, make_trivial, photographs
from tests.support.server import Server
from tests.support.tensor_models import make_tensor_models, table

TENSORS = ("breast_cancer", "recommender", "three", "half")
ROWS = table()[0][:4]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_trivial(make_tensor_models(tmp_path_factory.mktemp("openapi") / "models", *TENSORS))


@pytest.fixture(scope="module")
def server(models):
    with Server(models, "--default-model", "breast_cancer") as running:
        yield running.started()
        assert running.stop() == 0


@pytest.fixture(scope="module")
def client(server):
    found = OpenInferenceClient(base_url=server.url)
    yield found
    found._client_wrapper.httpx_client.close()


def request(*inputs, **more):
    return InferenceRequest(inputs=list(inputs), **more)


def given(name, datatype, values, nested=False):
    data = values.tolist() if nested else values.reshape(-1).tolist()
    return {"name": name, "shape": list(values.shape), "datatype": datatype, "data": data}


def outputs(answer):
    assert isinstance(answer, InferenceResponse)
    return {each.name: np.array(each.data.__root__).reshape([int(n) for n in each.shape]) for each in answer.outputs}


def test_health(client):
    assert client.check_server_liveness() is None
    assert client.check_server_readiness() is None
    assert client.check_model_readiness("breast_cancer") is None
    assert client.check_model_version_readiness("breast_cancer", "1") is None


def test_metadata(client):
    server = client.read_server_metadata()
    assert isinstance(server, MetadataServerResponse)
    assert "classification" in server.extensions
    for name in (*TENSORS, "trivial"):
        model = client.read_model_metadata(name)
        assert isinstance(model, MetadataModelResponse)
        assert (model.name, model.platform, model.versions) == (name, "pytorch", ["1"])
        assert model.inputs
        assert model.outputs
        assert client.read_model_version_metadata(name, "1") == model


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_a_table_of_floats(client, models, nested):
    answer = client.model_infer("breast_cancer", request=request(given("features", "FP32", ROWS, nested), id="one"))
    assert (answer.id, answer.model_name, answer.model_version) == ("one", "breast_cancer", "1")
    with torch.inference_mode():
        wanted = load(find_models(models)["breast_cancer"]).module(ROWS)
    np.testing.assert_allclose(outputs(answer)["output"], wanted, rtol=1e-5, atol=1e-5)


def test_several_inputs_and_a_version(client, models):
    """The client's own type of a request makes floats of integers; it sends a dict as it is."""
    user, items = torch.arange(3) * 300, torch.arange(60).reshape(3, 20)
    inputs = given("items", "INT64", items), given("user", "INT64", user)
    with pytest.raises(BadRequestError) as refused:
        client.model_version_infer("recommender", "1", request=request(*inputs))
    assert "The data of the input items is not INT64: Expected `int`, got `float`" in refused.value.body["error"]
    answer = client.model_version_infer("recommender", "1", request={"inputs": inputs})
    with torch.inference_mode():
        wanted = load(find_models(models)["recommender"]).module(user=user, items=items)["scores"]
    np.testing.assert_allclose(outputs(answer)["scores"], wanted, rtol=1e-5, atol=1e-5)


def test_requested_outputs_come_in_their_order(client, models):
    x = torch.randn(2, 12, generator=torch.Generator().manual_seed(1))
    body = request(given("x", "FP32", x), outputs=[{"name": "score"}, {"name": "best"}])
    found = outputs(client.model_infer("three", request=body))
    assert list(found) == ["score", "best"]
    with torch.inference_mode():
        wanted = load(find_models(models)["three"]).module(x)
    np.testing.assert_allclose(found["score"], wanted["score"], rtol=1e-5, atol=1e-5)
    assert found["best"].tolist() == wanted["best"].tolist()


def test_a_picture_in_base64(client, models):
    picture = photographs()[0]
    image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(picture).decode()]}
    found = outputs(client.model_infer("trivial", request=request(image)))
    wanted = direct(models, "trivial").probabilities(picture)
    assert found["ids"].astype(int).tolist() == [wanted.argsort(descending=True).tolist()]
    np.testing.assert_allclose(found["probabilities"].astype(float)[0], wanted.sort(descending=True)[0], atol=1e-4)


def said(refused):
    """The words of a refusal, which the client hands on as it came; it must be the error of the document."""
    return pydantic.v1.parse_obj_as(InferenceErrorResponse, refused.value.body).error


def test_refusals_are_the_errors_of_the_document(client):
    """It knows 400, and of a model that is not there only at its readiness; the rest is an ApiError by its status."""
    wrong = request({"name": "features", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]})
    with pytest.raises(BadRequestError) as refused:
        client.model_infer("breast_cancer", request=wrong)
    assert "of shape [1, 2]; it must be FP32 of shape [-1, 30]" in said(refused)
    for ask in (client.check_model_readiness, lambda name: client.check_model_version_readiness(name, "1")):
        with pytest.raises(NotFoundError) as refused:
            ask("absent")
        assert "absent" in said(refused)
    for ask in (client.read_model_metadata, lambda name: client.model_infer(name, request=wrong)):
        with pytest.raises(ApiError) as refused:
            ask("absent")
        assert (refused.value.status_code, "absent" in said(refused)) == (404, True)
    with pytest.raises(ApiError) as refused:
        client.read_model_version_metadata("breast_cancer", "9")
    assert (refused.value.status_code, "no version '9'" in said(refused)) == (404, True)


def test_the_asyncio_client(server):
    async def ask():
        client = AsyncOpenInferenceClient(base_url=server.url)
        try:
            await client.check_server_readiness()
            metadata = await client.read_model_metadata("breast_cancer")
            body = request(given("features", "FP32", ROWS))
            return metadata, await asyncio.gather(*(client.model_infer("breast_cancer", request=body) for _ in "abc"))
        finally:
            await client._client_wrapper.httpx_client.aclose()

    metadata, answers = asyncio.run(ask())
    assert metadata.name == "breast_cancer"
    assert all(np.array_equal(outputs(each)["output"], outputs(answers[0])["output"]) for each in answers)
