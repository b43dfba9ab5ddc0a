"""A contract that others wrote: MLServer's OpenAPI document of the protocol, from its wheel, against our server.

schemathesis makes requests from it, right ones and wrong ones, and holds the answers against it.
"""

from __future__ import annotations

import collections
import json
import zipfile

import httpx
import numpy as np
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, given, seed, settings, strategies
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance

from service.loader.load import load
from service.loader.repository import find_models
from tests.support import client_venvs
from tests.support.server import Server
from tests.support.tensor_models import make_tensor_models, table

MODELS = ("breast_cancer", "recommender", "three")
DOCUMENT = "mlserver/rest/openapi/dataplane.json"
#: Routes for text that is generated, and for answers in parts.
NOT_OURS = ("/generate", "/generate_stream", "/infer_stream")
#: Statuses that the document leaves out, and why a server answers them all the same.
BESIDE_THE_DOCUMENT = {
    404: "there is no such model or version: the document has it, but for readiness",
    413: "there are more examples than one request may have",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_tensor_models(tmp_path_factory.mktemp("contract") / "models", *MODELS)


@pytest.fixture(scope="module")
def server(models):
    with Server(models, "--default-model", "breast_cancer") as running:
        yield running.started()
        assert running.stop() == 0


@pytest.fixture(scope="module")
def document():
    """The document, where its schemas are not OpenAPI's mended."""
    with zipfile.ZipFile(client_venvs.wheel(client_venvs.MLSERVER)) as file:
        found = json.loads(file.read(DOCUMENT))
    found["paths"] = {path: one for path, one in found["paths"].items() if not path.endswith(NOT_OURS)}
    schemas = found["components"]["schemas"]
    schemas["Datatype"] = found["components"].pop("enums")["Datatype"]  # OpenAPI knows no components/enums
    schemas["TensorData"] = {"type": "array", "items": {}}  # there is no type `bytes`; an array must have items
    return json.loads(json.dumps(found).replace("#/components/enums/", "#/components/schemas/"))


@pytest.fixture(scope="module")
def schema(document, server):
    found = schemathesis.openapi.from_dict(document)
    found.config.update(base_url=server.url)
    return found


def test_we_have_every_route_of_the_document(document, server):
    ours = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    for path, methods in document["paths"].items():
        own = path.replace("{model_name}", "{model}").replace("{model_version}", "{version}")
        assert methods.keys() & {"get", "post"} <= ours[own].keys(), path


def test_requests_made_from_the_document_are_answered_as_it_says(schema):
    """Of what it makes little is right: a second time paths are those of models, a third time bodies are, too."""
    seen: collections.Counter[tuple[str, str, int]] = collections.Counter()
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 9
    for operation in operations:
        fuzz(operation, "as made", seen)
        if operation.path_parameters:
            fuzz(operation, "right path", seen)
        if operation.body:
            fuzz(operation, "right body", seen)
            fuzz(operation, "wrong body", seen, GenerationMode.NEGATIVE)
    print(f"{seen.total()} requests:", *(f"{n} x {what}" for what, n in sorted(seen.items())), sep="\n")
    for operation in operations:
        if operation.body:
            assert seen[operation.path, "right body", 200] > 10
            assert seen[operation.path, "wrong body", 400] > 10
        else:
            assert seen[operation.path, "right path" if operation.path_parameters else "as made", 200]


def fuzz(operation, what, seen, mode=GenerationMode.POSITIVE) -> None:
    @seed(1)
    @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode), model=strategies.sampled_from(MODELS))
    def ask(case, model) -> None:
        if what != "as made":
            case.path_parameters |= {"model_name": model} | (
                {"model_version": "1"} if "versions" in operation.path else {}
            )
        if what == "right body":
            made = case.body if isinstance(case.body, dict) else {}
            case.body = {"inputs": INPUTS[model]} | ({"id": made["id"]} if "id" in made else {})
        answer = case.call(timeout=30)
        seen[operation.path, what, answer.status_code] += 1
        documented = {int(status) for status in operation.definition.raw["responses"]}
        assert answer.status_code in documented | BESIDE_THE_DOCUMENT.keys(), answer.text
        case.validate_response(answer, checks=[not_a_server_error, response_schema_conformance])
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == ["application/json"]
            assert isinstance(answer.json()["error"], str)

    ask()


def given_input(name, datatype, values):
    return {"name": name, "shape": list(values.shape), "datatype": datatype, "data": values.tolist()}


ROWS, USER, ITEMS = table()[0][:2], torch.tensor([3, 999]), torch.arange(40).reshape(2, 20)
#: A right request to each model.
INPUTS = {
    "breast_cancer": [given_input("features", "FP32", ROWS)],
    "recommender": [given_input("user", "INT64", USER), given_input("items", "INT64", ITEMS)],
    "three": [given_input("x", "FP32", ROWS[:, :12])],
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_right_requests_give_the_numbers_of_the_direct_forward_in_the_form_of_the_document(
    schema, server, models, model, version
):
    parameters = {"model_name": model} | ({"model_version": "1"} if version else {})
    path = f"/v2/models/{{model_name}}{version and '/versions/{model_version}'}/infer"
    case = schema[path]["POST"].Case(
        path_parameters=parameters, body={"inputs": INPUTS[model], "id": "7"}, media_type="application/json"
    )
    answer = case.call_and_validate(checks=[not_a_server_error, response_schema_conformance]).json()
    assert (answer["model_name"], answer["id"]) == (model, "7")
    given_values = [torch.tensor(each["data"]) for each in INPUTS[model]]
    with torch.inference_mode():
        wanted = load(find_models(models)[model]).module(*given_values)
    wanted = wanted if isinstance(wanted, dict) else {"output": wanted}
    for output in answer["outputs"]:
        values = np.reshape(output["data"], output["shape"])
        np.testing.assert_allclose(values, wanted[output["name"]], rtol=1e-5, atol=1e-5)
