"""Triton's own HTTP client, sync and asyncio, against one server: every number is that of a direct forward."""

from __future__ import annotations

import asyncio
import base64

import httpx
import ml_dtypes
import numpy as np
import pytest
import torch
import tritonclient.http.aio
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from service.loader.load import load
from service.loader.repository import find_models
from tests.support.models import direct, make_trivial, photographs
from tests.support.server import Server
from tests.support.tensor_models import make_tensor_models, table

KEY = "a-key-of-these-tests"
BEARER = {"Authorization": f"Bearer {KEY}"}
TENSORS = ("breast_cancer", "recommender", "half", "fahrenheit", "three", "autoencoder")
ROWS = table()[0][:4].numpy()
BOTH_FORMS = pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_trivial(make_tensor_models(tmp_path_factory.mktemp("triton") / "models", *TENSORS))


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    keys.chmod(0o600)
    with Server(models, "--default-model", "breast_cancer", "--keys-file", str(keys)) as running:
        yield running.started()
        assert running.stop() == 0


@pytest.fixture(scope="module")
def modules(models):
    """Each model without a server: what the loader gives, called as its author would."""
    return {name: load(folder).module for name, folder in find_models(models).items()}


@pytest.fixture(scope="module")
def client(server):
    with InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=8) as client:
        yield client


def tensor(name, array, datatype, binary=True):
    given = InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def features(binary=True, rows=ROWS):
    return [tensor("features", rows, "FP32", binary)]


def infer(client, model, inputs, *outputs, **more):
    return client.infer(model, inputs, outputs=list(outputs) or None, headers=dict(BEARER), **more)


def forward(module, *inputs, **named):
    with torch.inference_mode():
        return module(*inputs, **named)


def close(found, wanted, tolerance=1e-5):
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def refusal(call, *arguments, **named):
    """The status and the words of what the client raises."""
    with pytest.raises(InferenceServerException) as raised:
        call(*arguments, **named)
    return raised.value.status(), raised.value.message()


def test_the_server_and_its_models_are_live_and_ready(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("recommender")
    assert client.is_model_ready("recommender", "1")
    assert not client.is_model_ready("absent")
    assert not client.is_model_ready("recommender", "2")


def test_metadata_says_what_the_server_and_a_model_are(client):
    server = client.get_server_metadata()
    assert server["name"] == "gradless"
    assert {"binary_tensor_data", "classification", "statistics", "model_repository"} <= set(server["extensions"])
    model = client.get_model_metadata("recommender", "1")
    assert model["inputs"] == [
        {"name": "user", "datatype": "INT64", "shape": [-1]},
        {"name": "items", "datatype": "INT64", "shape": [-1, 20]},
    ]
    assert model["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 20]}]
    assert client.get_model_metadata("half")["inputs"] == [{"name": "x", "datatype": "BF16", "shape": [-1, 16]}]
    picture = client.get_model_metadata("trivial")
    assert [each["datatype"] for each in picture["inputs"] + picture["outputs"]] == ["BYTES", "INT64", "FP32", "BYTES"]


def test_the_configuration_names_the_batch_and_the_shapes_without_it(client):
    found = client.get_model_config("recommender")
    assert found["max_batch_size"] > 1
    assert found["input"] == [
        {"name": "user", "data_type": "TYPE_INT64", "dims": [1]},
        {"name": "items", "data_type": "TYPE_INT64", "dims": [20]},
    ]
    assert found["output"] == [{"name": "scores", "data_type": "TYPE_FP32", "dims": [20]}]


@BOTH_FORMS
def test_a_table_of_floats(client, modules, binary):
    found = infer(client, "breast_cancer", features(binary), InferRequestedOutput("output", binary_data=binary))
    close(found.as_numpy("output"), forward(modules["breast_cancer"], torch.from_numpy(ROWS)))
    assert ("data" in found.get_output("output")) is not binary
    assert found.get_response()["model_name"] == "breast_cancer"
    assert found.get_response()["model_version"] == "1"


@pytest.mark.parametrize("version", ["", "1"])
def test_nothing_said_of_outputs_gives_all_as_bytes(client, modules, version):
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    found = infer(client, "three", [tensor("x", x.numpy(), "FP32")], model_version=version)
    wanted = forward(modules["three"], x)
    assert [each["name"] for each in found.get_response()["outputs"]] == ["embedding", "best", "score"]
    for name in ("embedding", "best", "score"):
        assert "binary_data_size" in found.get_output(name)["parameters"]
        assert found.as_numpy(name).dtype == wanted[name].numpy().dtype
        close(found.as_numpy(name), wanted[name])


@pytest.mark.parametrize(("user", "items"), [(True, True), (False, False), (True, False), (False, True)])
def test_ids_by_name_in_either_form_and_in_any_order(client, modules, user, items):
    ids, rows = np.arange(6) * 150, np.arange(120).reshape(6, 20)
    inputs = [tensor("items", rows, "INT64", items), tensor("user", ids, "INT64", user)]
    found = infer(client, "recommender", inputs)
    wanted = forward(modules["recommender"], user=torch.from_numpy(ids), items=torch.from_numpy(rows))
    close(found.as_numpy("scores"), wanted["scores"])


def test_bfloat16_goes_both_ways_as_bytes(client, modules):
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(2))
    found = infer(client, "half", [tensor("x", x.numpy().astype(ml_dtypes.bfloat16), "BF16")]).as_numpy("output")
    assert found.dtype == ml_dtypes.bfloat16
    close(found.astype(np.float32), forward(modules["half"], x.bfloat16()).float(), 0.02)


@BOTH_FORMS
def test_an_example_that_is_one_number(client, binary):
    celsius = np.array([-40, 37.5], np.float32)
    output = InferRequestedOutput("output", binary_data=binary)
    found = infer(client, "fahrenheit", [tensor("celsius", celsius, "FP32", binary)], output)
    assert found.as_numpy("output").tolist() == [-40.0, 99.5]


def predicted(server, pictures, top_k=10):
    """Ids, probabilities and labels of /predict."""
    body = {"instances": [{"b64": base64.b64encode(picture).decode()} for picture in pictures], "top_k": top_k}
    answer = httpx.post(f"{server.url}/models/trivial/predict", json=body, headers=BEARER)
    rows = [each["classes"] for each in answer.json()["predictions"]]
    return [[[entry[key] for entry in row] for row in rows] for key in ("id", "probability", "label")]


@pytest.mark.parametrize("shape", [(3,), (3, 1)], ids=str)
@BOTH_FORMS
def test_pictures_as_files(server, client, models, shape, binary):
    pictures = photographs(3)
    files = pictures if binary else [base64.b64encode(picture).decode() for picture in pictures]
    outputs = [InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "labels", "ids")]
    given = tensor("image", np.array(files, np.object_).reshape(shape), "BYTES", binary)
    found = infer(client, "trivial", [given], *outputs)
    ids, probabilities, labels = predicted(server, pictures)
    assert found.as_numpy("ids").tolist() == ids
    close(found.as_numpy("probabilities"), probabilities)
    texts = found.as_numpy("labels")
    assert [[t.decode() if isinstance(t, bytes) else t for t in row] for row in texts.tolist()] == labels
    for row, picture in zip(found.as_numpy("probabilities"), pictures, strict=True):
        close(row, direct(models, "trivial").probabilities(picture).sort(descending=True).values, 1e-4)


@BOTH_FORMS
def test_a_decoded_picture_as_uint8(client, models, binary):
    trivial = direct(models, "trivial")
    pixels = np.random.default_rng(3).integers(0, 256, (2, 3, 32, 32), np.uint8)
    found = infer(client, "trivial", [tensor("image", pixels, "UINT8", binary)])
    with torch.inference_mode():
        wanted = trivial.module((torch.from_numpy(pixels).float() - trivial.mean) / trivial.std).softmax(1)
    ids = torch.from_numpy(found.as_numpy("ids").copy())
    assert ids.tolist() == wanted.argsort(1, descending=True).tolist()
    close(found.as_numpy("probabilities"), wanted.gather(1, ids), 1e-4)


@BOTH_FORMS
def test_class_count_gives_value_index_and_label(server, client, binary):
    picture = photographs()[0]
    output = InferRequestedOutput("probabilities", binary_data=binary, class_count=3)
    found = infer(client, "trivial", [tensor("image", np.array([picture], np.object_), "BYTES")], output)
    [ids], [probabilities], [labels] = predicted(server, [picture], 3)
    texts = [t.decode() if isinstance(t, bytes) else t for t in found.as_numpy("probabilities")[0].tolist()]
    cut = [text.split(":", 2) for text in texts]
    assert [int(index) for _, index, _ in cut] == ids
    assert [label for *_, label in cut] == labels
    close([float(value) for value, *_ in cut], probabilities)


def test_class_count_of_a_tensor_gives_its_highest_elements(client, modules):
    found = infer(client, "breast_cancer", features(), InferRequestedOutput("output", class_count=1))
    wanted = forward(modules["breast_cancer"], torch.from_numpy(ROWS))
    cut = [text.decode().split(":") for (text,) in found.as_numpy("output").tolist()]
    assert [int(index) for _, index in cut] == wanted.argmax(1).tolist()
    close([float(value) for value, _ in cut], wanted.amax(1))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@BOTH_FORMS
def test_bodies_and_answers_are_compressed(client, modules, algorithm, binary):
    images = torch.zeros(2, 1, 28, 28)
    images[:, :, 7:21] = 0.5
    found = infer(
        client,
        "autoencoder",
        [tensor("image", images.numpy(), "FP32", binary)],
        InferRequestedOutput("image", binary_data=binary),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    close(found.as_numpy("image"), forward(modules["autoencoder"], images))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_the_answer_to_such_a_request_is_smaller_on_the_wire(server, algorithm):
    image = np.zeros((2, 1, 28, 28), np.float32)
    body, length = InferenceServerClient.generate_request_body([tensor("image", image, "FP32")])
    headers = BEARER | {"Inference-Header-Content-Length": str(length), "Accept-Encoding": algorithm}
    url = f"{server.url}/v2/models/autoencoder/infer"
    with httpx.stream("POST", url, content=body, headers=headers) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == algorithm
    assert int(answer.headers["content-length"]) == len(raw)
    length = int(answer.headers["inference-header-content-length"])
    found = InferenceServerClient.parse_response_body(raw, header_length=length, content_encoding=algorithm)
    assert found.as_numpy("image").nbytes > len(raw)


def test_many_requests_at_once_each_get_their_own_answer(client, modules):
    rows = table()[0][:40]
    wanted = forward(modules["breast_cancer"], rows)
    asked = [
        client.async_infer("breast_cancer", features(rows=row[None].numpy()), request_id=str(n), headers=dict(BEARER))
        for n, row in enumerate(rows)
    ]
    for number, one in enumerate(asked):
        found = one.get_result(timeout=30)
        assert found.get_response()["id"] == str(number)
        close(found.as_numpy("output")[0], wanted[number])


def test_a_refusal_of_a_request_that_was_sent_ahead_is_raised_when_its_result_is_asked_for(client):
    asked = client.async_infer("absent", features(), headers=dict(BEARER))
    assert refusal(asked.get_result)[0] == "404"


def test_what_only_triton_knows_is_passed_over(client, modules):
    found = infer(
        client, "breast_cancer", features(), priority=2, sequence_id=7, sequence_start=True, parameters={"seed": 1}
    )
    close(found.as_numpy("output"), forward(modules["breast_cancer"], torch.from_numpy(ROWS)))
    assert "id" not in found.get_response()


def test_a_timeout_is_in_microseconds(client):
    assert infer(client, "breast_cancer", features(), timeout=5_000_000).as_numpy("output") is not None
    status, words = refusal(infer, client, "breast_cancer", features(), timeout=1)
    assert status == "504"
    assert "deadline" in words


def test_a_key_goes_in_a_header_and_is_asked_for(client):
    status, words = refusal(client.infer, "breast_cancer", features())
    assert (status, words) == ("401", "Send one of the server's keys in the header Authorization: Bearer KEY.")
    status, _ = refusal(client.infer, "breast_cancer", features(), headers={"Authorization": "Bearer another"})
    assert status == "401"


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([tensor("features", ROWS[:, :9], "FP32")], "FP32 of shape [4, 9]; it must be FP32 of shape [-1, 30]"),
        ([tensor("features", ROWS[0], "FP32")], "FP32 of shape [30]; it must be FP32 of shape [-1, 30]"),
        ([tensor("features", ROWS.astype(np.float64), "FP64")], "is FP64 of shape [4, 30]; it must be FP32"),
        ([tensor("rows", ROWS, "FP32")], "'rows' is not an input of the model; it takes features."),
        ([*features(), *features()], "features is there twice"),
        ([tensor("features", ROWS[:0], "FP32")], "no instance"),
    ],
    ids=["shape", "dimensions", "datatype", "name", "twice", "empty"],
)
def test_wrong_inputs_are_refused_in_words(client, inputs, said):
    status, words = refusal(infer, client, "breast_cancer", inputs)
    assert status == "400"
    assert said in words


def test_a_missing_input_and_ids_out_of_range_are_named(client):
    user, items = np.array([5000]), np.zeros((1, 20), np.int64)
    status, words = refusal(infer, client, "recommender", [tensor("items", items, "INT64")])
    assert (status, "The input user is missing" in words) == ("400", True)
    both = [tensor("user", user, "INT64"), tensor("items", items, "INT64")]
    status, words = refusal(infer, client, "recommender", both)
    assert (status, "outside of the range" in words) == ("400", True)


def test_an_output_that_does_not_exist_is_named(client):
    output = InferRequestedOutput("logits")
    status, words = refusal(infer, client, "breast_cancer", features(), output)
    assert (status, words) == ("400", "'logits' is not an output of the model; it gives output.")


def test_a_file_that_is_not_a_picture_is_refused(client):
    given = tensor("image", np.array([b"not a picture"], np.object_), "BYTES")
    status, words = refusal(infer, client, "trivial", [given])
    assert status in ("400", "415")
    assert "image" in words or "picture" in words


def test_shared_memory_is_refused(client):
    """Another process's memory is no input here."""
    given = InferInput("features", [4, 30], "FP32")
    given.set_shared_memory("region", ROWS.nbytes)
    status, words = refusal(infer, client, "breast_cancer", [given])
    assert status == "400"
    assert "must have either data or the parameter binary_data_size" in words
    assert refusal(client.get_system_shared_memory_status)[0] == "404"


def test_a_model_and_a_version_that_do_not_exist(client):
    for ask in (
        client.get_model_metadata,
        client.get_model_config,
        client.get_inference_statistics,
        lambda model: infer(client, model, features()),
    ):
        status, words = refusal(ask, "absent")
        assert status == "404"
        assert "absent" in words
    for ask in (
        client.get_model_metadata,
        client.get_model_config,
        client.get_inference_statistics,
        lambda model, version: infer(client, model, features(), model_version=version),
    ):
        status, words = refusal(ask, "breast_cancer", "9")
        assert status == "404"
        assert "breast_cancer has no version '9'; it has 1" in words


def test_statistics_count_requests_examples_and_batches(server, client):
    def statistics(*model):
        (found,) = client.get_inference_statistics(*model)["model_stats"]
        return found

    before = statistics("fahrenheit")
    for _ in range(5):
        infer(client, "fahrenheit", [tensor("celsius", np.zeros(3, np.float32), "FP32")])
    refusal(infer, client, "fahrenheit", features())
    after = statistics("fahrenheit", "1")
    assert (after["name"], after["version"]) == ("fahrenheit", "1")
    assert after["inference_count"] - before["inference_count"] == 15
    assert 5 <= after["execution_count"] - before["execution_count"] <= 15
    assert after["execution_count"] == server.settled("gradless_batch_size_count", model="fahrenheit")
    counts = [each["inference_stats"] for each in (before, after)]
    assert counts[1]["success"]["count"] - counts[0]["success"]["count"] == 5
    assert counts[1]["fail"]["count"] - counts[0]["fail"]["count"] == 1
    for stage in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert counts[1][stage]["count"] > counts[0][stage]["count"]
        assert counts[1][stage]["ns"] > counts[0][stage]["ns"]
    everything = client.get_inference_statistics()["model_stats"]
    assert {each["name"] for each in everything} == {*TENSORS, "trivial"}


def test_the_repository_lists_the_models_and_loads_none(client):
    index = client.get_model_repository_index()
    assert {each["name"] for each in index} == {*TENSORS, "trivial"}
    assert {(each["version"], each["state"]) for each in index} == {("1", "READY")}
    for change in (client.load_model, client.unload_model):
        assert refusal(change, "three")[0] == "401"
        status, words = refusal(change, "three", headers=dict(BEARER))
        assert status == "403"
        assert "POST /models/reload" in words


def test_the_asyncio_client(server, modules):
    """The same over aiohttp: what it asks for, and how it undoes compression, is code of its own."""
    rows = table()[0][:12]
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    async def ask():
        async with tritonclient.http.aio.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("three")
            assert not await client.is_model_ready("absent")
            assert (await client.get_server_metadata())["name"] == "gradless"
            assert (await client.get_model_metadata("three"))["name"] == "three"
            assert (await client.get_model_config("three"))["max_batch_size"] > 1
            assert len(await client.get_model_repository_index()) == len(TENSORS) + 1
            assert (await client.get_inference_statistics("three"))["model_stats"][0]["name"] == "three"
            singles = [
                client.infer("breast_cancer", features(n % 2 == 0, row[None].numpy()), headers=dict(BEARER))
                for n, row in enumerate(rows)
            ]
            found = await asyncio.gather(*singles)
            packed = [
                await client.infer(
                    "autoencoder",
                    [tensor("image", images.numpy(), "FP32")],
                    headers=dict(BEARER),
                    request_compression_algorithm=algorithm,
                    response_compression_algorithm=algorithm,
                )
                for algorithm in ("gzip", "deflate")
            ]
            with pytest.raises(InferenceServerException) as raised:
                await client.infer("absent", features(), headers=dict(BEARER))
            return found, packed, raised.value

    found, packed, error = asyncio.run(ask())
    close(np.concatenate([each.as_numpy("output") for each in found]), forward(modules["breast_cancer"], rows))
    for each in packed:
        close(each.as_numpy("image"), forward(modules["autoencoder"], images))
    assert (error.status(), "absent" in error.message()) == ("404", True)
