"""Models of tensors over a real socket: each answers what a direct forward of its module gives."""

from __future__ import annotations

import io
import json
import wave
from pathlib import Path

import httpx
import jsonschema
import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from service.loader.load import load
from service.loader.repository import find_models
from tests.support.models import make_models
from tests.support.server import Server, wait_for
from tests.support.tensor_models import CARDS, make_tensor_models, table

RECORDING = Path("/usr/share/sounds/alsa/Front_Center.wav")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return make_tensor_models(tmp_path_factory.mktemp("tensors") / "models")


@pytest.fixture(scope="module")
def server(models):
    with Server(models, "--default-model", "breast_cancer") as running:
        yield running.started()
        assert running.stop() == 0


@pytest.fixture(scope="module")
def modules(models):
    """Each model without a server: what the loader gives, called as its author would."""
    return {name: load(folder).module for name, folder in find_models(models).items()}


def ask(server, model, instances):
    answer = httpx.post(f"{server.url}/models/{model}/predict", json={"instances": instances}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def outputs(server, model, instances):
    """The outputs of instances by name, `(N, ...)` each."""
    rows = [each["outputs"] for each in ask(server, model, instances)]
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


def close(one, other, tolerance=1e-5):
    return torch.allclose(one.double(), other.double(), rtol=tolerance, atol=tolerance)


def test_every_model_is_proven_with_its_signature(server, models):
    for name in CARDS:
        assert httpx.get(f"{server.url}/models/{name}/proof").json()["passed"], name
        shown = httpx.get(f"{server.url}/models/{name}").json()
        assert shown["task"] == "tensor"
        assert shown["signature"]["inputs"]
        assert shown["signature"]["outputs"]


def test_a_trained_perceptron_is_as_accurate_over_http_as_it_is(server, modules):
    features, target = table()
    with torch.inference_mode():
        direct = modules["breast_cancer"](features)
    rows = features.tolist()
    answered = torch.cat(
        [outputs(server, "breast_cancer", rows[at : at + 64])["output"] for at in range(0, len(rows), 64)]
    )
    accuracy = (answered.argmax(1) == target).double().mean()
    assert accuracy == (direct.argmax(1) == target).double().mean()
    assert accuracy > 0.95
    assert close(answered, direct)


def test_two_towers_take_ids_by_name(server, modules):
    user, items = torch.arange(6) * 150, torch.arange(120).reshape(6, 20)
    with torch.inference_mode():
        direct = modules["recommender"](user=user, items=items)["scores"]
    instances = [{"items": i.tolist(), "user": int(u)} for u, i in zip(user, items, strict=True)]
    assert close(outputs(server, "recommender", instances)["scores"], direct)


def test_an_autoencoder_gives_a_picture_back_as_numbers_and_as_npy(server, modules):
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        direct = modules["autoencoder"](images)
    assert close(outputs(server, "autoencoder", images.tolist())["image"], direct)
    file = io.BytesIO()
    np.save(file, images.numpy())
    headers = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
    answer = httpx.post(f"{server.url}/models/autoencoder/predict", content=file.getvalue(), headers=headers)
    assert answer.headers["content-type"] == "application/x-npy"
    assert answer.headers["x-gradless-model"] == "autoencoder"
    assert close(torch.from_numpy(np.load(io.BytesIO(answer.content))), direct)


def samples() -> torch.Tensor:
    """A real recording at 16 kHz, `(N,) float32` from -1 to 1: a voice says "front center"."""
    with wave.open(str(RECORDING)) as recording:
        assert (recording.getnchannels(), recording.getframerate()) == (1, 48_000)
        pcm = np.frombuffer(recording.readframes(recording.getnframes()), "<i2")
    return torch.from_numpy(resample_poly(pcm / 32768, 1, 3).astype(np.float32)).clamp(-1, 1)


@pytest.mark.skipif(not RECORDING.exists(), reason="Debian's alsa-utils, which has a recording, is not installed")
def test_a_voice_is_found_in_a_recording_with_the_state_passed_from_window_to_window(server, modules):
    padded = torch.nn.functional.pad(samples(), (64, 512))
    windows = padded.unfold(0, 576, 512)
    state = torch.zeros(1, 128), torch.zeros(1, 128)
    h, c = ([0.0] * 128 for _ in range(2))
    direct, answered = [], []
    for window in windows:
        with torch.inference_mode():
            speech, *state = modules["vad"](window.unsqueeze(0), *state)
        direct.append(float(speech))
        [found] = ask(server, "vad", [{"samples": window.tolist(), "h": h, "c": c}])
        answered.append(found["outputs"]["speech"])
        h, c = found["outputs"]["h"], found["outputs"]["c"]
    assert np.allclose(answered, direct, atol=1e-3)
    assert max(answered) > 0.9, "somebody speaks"
    assert min(answered) < 0.2, "and is silent"


def test_a_dict_of_three_outputs_comes_by_name_without_what_is_no_tensor(server, modules):
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        direct = modules["three"](x)
    found = outputs(server, "three", x.tolist())
    assert found.keys() == {"embedding", "best", "score"}
    assert torch.equal(found["best"], direct["best"])
    assert all(close(found[name], direct[name]) for name in ("embedding", "score"))


def test_a_bfloat16_model_answers_in_numbers_that_bfloat16_has(server, modules):
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(2)).bfloat16()
    with torch.inference_mode():
        direct = modules["half"](x)
    found = outputs(server, "half", x.float().tolist())["output"]
    assert torch.equal(found.bfloat16().float(), found)
    assert close(found, direct, 0.02)


@pytest.mark.parametrize("instances", [[-40, 37.5], [{"celsius": -40}, {"celsius": 37.5}]], ids=["bare", "by name"])
def test_a_single_number_goes_in_and_comes_out(server, instances):
    found = outputs(server, "fahrenheit", instances)["output"]
    assert close(found, torch.tensor([-40.0, 99.5]))


def test_a_reader_whose_batch_is_the_second_axis_gives_rows(server, modules):
    lines = torch.rand(3, 1, 32, 100, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        direct = modules["reader"](lines)
    found = outputs(server, "reader", lines.tolist())["letters"]
    assert found.shape == (3, 25, 37)
    assert close(found, direct.movedim(1, 0))


def test_npz_goes_both_ways_with_several_inputs_and_outputs(server, modules):
    generator = torch.Generator().manual_seed(4)
    window = torch.rand(3, 576, generator=generator) * 2 - 1
    h, c = torch.randn(2, 3, 128, generator=generator)
    with torch.inference_mode():
        direct = modules["vad"](window, h, c)
    file = io.BytesIO()
    np.savez_compressed(file, c=c.numpy(), samples=window.numpy(), h=h.numpy())
    headers = {"Content-Type": "application/x-npz", "Accept": "application/x-npz"}
    answer = httpx.post(f"{server.url}/models/vad/predict", content=file.getvalue(), headers=headers)
    assert answer.status_code == 200, answer.text
    with np.load(io.BytesIO(answer.content)) as found:
        assert found.files == ["speech", "h", "c"]
        for name, wanted in zip(found.files, direct, strict=True):
            assert close(torch.from_numpy(found[name]), wanted, 1e-4)


def test_an_answer_of_several_outputs_cannot_be_one_npy_file(server):
    answer = httpx.post(
        f"{server.url}/models/three/predict",
        json={"instances": [[0.0] * 12]},
        headers={"Accept": "application/x-npy"},
    )
    assert answer.status_code == 406
    assert "accept application/x-npz" in answer.json()["detail"]


def test_a_client_that_accepts_nothing_that_is_written_is_told_what_is(server):
    url = f"{server.url}/models/three/predict"
    answer = httpx.post(url, json={"instances": [[0.0] * 12]}, headers={"Accept": "image/png"})
    assert answer.status_code == 406
    assert "application/json, application/x-npy, application/x-npz" in answer.json()["detail"]


def test_a_start_that_finds_other_outputs_under_the_same_version_is_refused(tmp_path):
    """What an installed module imports is no part of a version."""
    packages = tmp_path / "packages"
    (packages / "zoo").mkdir(parents=True)
    (packages / "zoo" / "__init__.py").write_text("")
    code = """\
from torch import nn

from zoo_parts import kept


class Net(nn.Linear):
    def forward(self, x):
        return kept(super().forward(x))


def net():
    return Net(4, 3)
"""
    (packages / "zoo" / "nets.py").write_text(code)
    parts = packages / "zoo_parts.py"
    models = make_models(
        tmp_path / "models",
        net='task = "tensor"\nweights = "factory"\narchitecture = "zoo.nets:net"\n[inputs.x]\nshape = [4]\n',
    )
    environment = {"PYTHONPATH": str(packages), "GRADLESS_CACHE": str(tmp_path / "cache")}
    parts.write_text("def kept(y):\n    return y[:, :2]\n")
    with Server(models, environment=environment) as server:
        server.started()
        version = httpx.get(f"{server.url}/models/net").json()["version"]
        assert server.stop() == 0
    parts.write_text("def kept(y):\n    return y\n")
    with Server(models, environment=environment) as server:
        wait_for(lambda: server.events("model failed"), 60, "a refusal")
        found = f"an earlier start of version {version} found output (float32 of shape (2,))"
        assert found in server.events("model failed")[0]["detail"]


def test_a_file_of_tensors_is_answered_without_a_server(here, models, modules, tmp_path):
    rows = torch.randn(3, 12, generator=torch.Generator().manual_seed(5))
    np.save(tmp_path / "three.npy", rows.numpy())
    (tmp_path / "one.json").write_text(f'{{"instances": [{rows[0].tolist()}]}}')
    (tmp_path / "bad.json").write_text('{"instances": [[1, 2]]}')
    code, out, _ = here("predict", tmp_path, "--models", models, "--model", "three", "--json")
    assert code == 1
    bad, one, *three = json.loads(out)["predictions"]
    assert "Instance 0, input x" in bad["error"]
    with torch.inference_mode():
        direct = modules["three"](rows)
    assert [each["outputs"]["best"] for each in three] == direct["best"].tolist()
    assert one["outputs"] == three[0]["outputs"]


def test_the_schema_shows_each_model_with_a_request_that_works(server):
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    for name in CARDS:
        operation = paths[f"/models/{name}/predict"]["post"]
        content = operation["requestBody"]["content"]
        assert {"application/json", "application/x-npz"} <= content.keys()
        if name == "reader":  # of 3,200 numbers, more than anybody wants to see
            assert "example" not in content["application/json"]
            continue
        answer = httpx.post(f"{server.url}/models/{name}/predict", json=content["application/json"]["example"])
        assert answer.status_code == 200, answer.text
        jsonschema.validate(content["application/json"]["example"], content["application/json"]["schema"])
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), schema)
        assert not any(parameter["name"] == "top_k" for parameter in operation["parameters"])
    assert paths["/predict"]["post"]["requestBody"] == paths["/models/breast_cancer/predict"]["post"]["requestBody"]


def test_a_model_of_tensors_has_no_top_k(server):
    answer = httpx.post(f"{server.url}/predict?top_k=5", json={"instances": [[0.0] * 30]})
    assert answer.status_code == 422
    assert "top_k is for the classes of a classifier" in answer.json()["detail"]


REGRESSION = """\
task = "regression"
weights = "random:1"
architecture = "net:net"
values = ["price", "rent"]
[inputs.x]
shape = [4]
"""
LABELLED = """\
task = "classification"
weights = "random:1"
architecture = "net:net"
labels = ["cat", "dog"]
activation = "sigmoid"
[inputs.x]
shape = [4]
"""


def test_a_regression_gives_values_by_name_and_a_classifier_of_tensors_its_labels(tmp_path, serve):
    models = make_models(tmp_path / "models", prices=REGRESSION, animals=LABELLED)
    for name in ("prices", "animals"):
        (models / name / "net.py").write_text("from torch import nn\n\n\ndef net():\n    return nn.Linear(4, 2)\n")
    server = serve(models, "--default-model", "prices")
    x = torch.tensor([[1.0, -2.0, 0.5, 3.0]])
    with torch.inference_mode():
        [price, rent] = load(find_models(models)["prices"]).module(x)[0].tolist()
        scores = load(find_models(models)["animals"]).module(x)[0].sigmoid().tolist()
    [found] = ask(server, "prices", x.tolist())
    assert found == {"values": {"price": pytest.approx(price, rel=1e-5), "rent": pytest.approx(rent, rel=1e-5)}}
    [found] = ask(server, "animals", [{"x": x[0].tolist()}])
    assert {each["label"]: each["probability"] for each in found["classes"]} == {
        "cat": pytest.approx(scores[0], rel=1e-5),
        "dog": pytest.approx(scores[1], rel=1e-5),
    }
    answer = httpx.post(f"{server.url}/models/animals/predict?top_k=1", json={"instances": x.tolist()})
    assert len(answer.json()["predictions"][0]["classes"]) == 1
