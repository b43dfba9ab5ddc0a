"""huggingface_hub's InferenceClient, whose model is an address of ours."""

from __future__ import annotations

import asyncio

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.support.models import TRIVIAL, TRIVIAL_CODE, direct, flower, make_models, photographs
from tests.support.server import Server
from tests.support.tensor_models import make_tensor_models

KEY = "a-key-of-these-tests"
LABELS = [f"kind {letter}" for letter in "abcdefghij"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = make_tensor_models(tmp_path_factory.mktemp("hub") / "models", "fahrenheit")
    make_models(root, trivial=TRIVIAL.replace("[input]", f"labels = {LABELS}\n[input]", 1))
    (root / "trivial" / "architecture.py").write_text(TRIVIAL_CODE)
    return root


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    keys.chmod(0o600)
    with Server(models, "--default-model", "trivial", "--keys-file", str(keys)) as running:
        yield running.started()
        assert running.stop() == 0


@pytest.fixture
def client(server):
    """A client whose token is the server's key."""
    with InferenceClient(model=f"{server.url}/hf/trivial", token=KEY) as client:
        yield client


def assert_right(found, models, picture, count):
    best = direct(models, "trivial").probabilities(picture).topk(count)
    assert [each.label for each in found] == [LABELS[place] for place in best.indices]
    assert [each.score for each in found] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_bytes(client, models):
    assert_right(client.image_classification(photographs()[0]), models, photographs()[0], 5)


def test_a_file_by_its_path(client, models, tmp_path):
    file = tmp_path / "flower.jpg"
    file.write_bytes(flower())
    assert_right(client.image_classification(file), models, flower(), 5)
    assert_right(client.image_classification(str(file)), models, flower(), 5)


@pytest.mark.parametrize("top_k", [1, 3, 10])
def test_top_k_which_goes_with_the_picture_in_json(client, models, top_k):
    assert_right(client.image_classification(photographs()[1], top_k=top_k), models, photographs()[1], top_k)


@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")  # the client does not
def test_the_asyncio_client(server, models):
    async def ask():
        async with AsyncInferenceClient(model=f"{server.url}/hf/trivial", token=KEY) as client:
            return await asyncio.gather(*map(client.image_classification, photographs(4)))

    for found, picture in zip(asyncio.run(ask()), photographs(4), strict=True):
        assert_right(found, models, picture, 5)


def refusal(ask, *arguments, **named):
    with pytest.raises(HfHubHTTPError) as refused:
        ask(*arguments, **named)
    return refused.value.response.status_code, str(refused.value)


def test_refusals_have_our_words(server, client):
    status, words = refusal(client.image_classification, b"not a picture")
    assert status in (415, 422)
    assert "not a picture" in words or "image" in words
    status, words = refusal(client.image_classification, photographs()[0], top_k=1000)
    assert (status, "top_k is '1000'; it must be a whole number from 1 to 100" in words) == (422, True)
    status, words = refusal(client.image_classification, photographs()[0], function_to_apply="sigmoid")
    assert (status, "decided by the model's card" in words) == (422, True)
    with InferenceClient(model=f"{server.url}/hf/absent", token=KEY) as absent:
        status, words = refusal(absent.image_classification, photographs()[0])
    assert (status, "absent" in words) == (404, True)
    with InferenceClient(model=f"{server.url}/hf/trivial", token="another") as unknown:
        status, words = refusal(unknown.image_classification, photographs()[0])
    assert (status, "The key is none of the server's" in words) == (401, True)


def test_a_model_of_tensors_has_no_pipeline(server):
    with InferenceClient(model=f"{server.url}/hf/fahrenheit", token=KEY) as client:
        status, words = refusal(client.image_classification, photographs()[0])
    assert status == 422
    assert "no pipeline for the task tensor" in words
