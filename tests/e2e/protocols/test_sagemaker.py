"""sagemaker-inference's encoder writes what /invocations reads, and its decoder reads what that answers.

Of the package only these two run, in an environment without the rest of what it requires.
"""

from __future__ import annotations

import itertools

import httpx
import numpy as np
import pytest
import torch

from service.loader.load import load
from service.loader.repository import find_models
from tests.support import client_venvs
from tests.support.server import Server
from tests.support.tensor_models import make_tensor_models, table

ROWS = table()[0][:5]
FORMATS = ("application/json", "text/csv", "application/x-npy")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_tensor_models(tmp_path_factory.mktemp("sagemaker") / "models", "breast_cancer")


@pytest.fixture(scope="module")
def server(models):
    with Server(models) as running:
        yield running.started()
        assert running.stop() == 0


@pytest.fixture(scope="module")
def answers(server):
    def call(content_type, accept="*/*", array=ROWS, dtype="float32"):
        url = f"{server.url}/invocations"
        return {"url": url, "content_type": content_type, "accept": accept, "array": array.tolist(), "dtype": dtype}

    calls = {f"{sent} {accept}": call(sent, accept) for sent, accept in itertools.product(FORMATS, (*FORMATS, "*/*"))}
    calls |= {f"one {sent}": call(sent, sent, ROWS[:1]) for sent in FORMATS}
    calls |= {f"wrong {sent}": call(sent, array=ROWS[:, :9]) for sent in FORMATS}
    calls["float64"] = call("application/x-npy", dtype="float64")
    return client_venvs.run("sagemaker", calls=calls)


@pytest.fixture(scope="module")
def wanted(models):
    with torch.inference_mode():
        return load(find_models(models)["breast_cancer"]).module(ROWS).numpy()


@pytest.mark.parametrize("accept", [*FORMATS, "*/*"])
@pytest.mark.parametrize("sent", FORMATS)
def test_each_format_is_read_and_each_is_written(answers, wanted, sent, accept):
    answer = answers[f"{sent} {accept}"]
    assert answer["status"] == 200, answer
    assert answer["content_type"] == (accept if accept != "*/*" else "application/json")
    np.testing.assert_allclose(answer["body"], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sent", FORMATS)
def test_one_row(answers, wanted, sent):
    """The decoder makes no second dimension of one line of CSV."""
    answer = answers[f"one {sent}"]
    assert (answer["status"], answer["content_type"]) == (200, sent)
    np.testing.assert_allclose(np.atleast_2d(answer["body"]), wanted[:1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sent", FORMATS)
def test_rows_of_another_length_are_refused_in_words(answers, sent):
    answer = answers[f"wrong {sent}"]
    assert (answer["status"], answer["content_type"]) == (422, "application/json")
    assert "30" in answer["body"]


def test_float64_which_the_encoder_makes_of_lists_is_refused_in_words(answers):
    assert answers["float64"]["status"] == 422
    assert "must be float32 of shape (N, 30)" in answers["float64"]["body"]


def test_the_ping(server):
    answer = httpx.get(f"{server.url}/ping")
    assert (answer.status_code, answer.json()) == (200, {"status": "Healthy"})
