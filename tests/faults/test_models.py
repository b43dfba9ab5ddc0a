"""Rows E6, E16 and E17 of the fault matrix: a model that misbehaves for some inputs."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.support.coloured import ask, make_coloured, restarts
from tests.support.models import direct
from tests.support.traffic import Traffic

CODE = """\
import pathlib
import sys
import threading

import torch
from torch import nn

MARK = pathlib.Path(__file__).with_name("died")


class Wayward(nn.Module):
    '''What a picture of one colour makes it do is in COLOURS of the test.'''

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(8)
        self.last = nn.Linear(48, 10)

    def forward(self, x):
        colours = [tuple(int(value) for value in pixel) for pixel in x[:, :, 0, 0]]
        scores = self.last(torch.flatten(self.pool(x), 1))
        if (255, 0, 0) in colours:
            raise ValueError("red")
        if (0, 255, 0) in colours:
            sys.exit(3)
        if (0, 0, 255) in colours:
            return scores[:-1]
        if (255, 255, 0) in colours:
            return torch.cat([scores, scores])
        if (0, 255, 255) in colours and not MARK.exists():
            MARK.touch()
            threading.current_thread()._serving._deliver = None
        white = torch.tensor([colour == (255, 255, 255) for colour in colours])
        return torch.where(white[:, None], float("nan"), scores)


def wayward():
    return Wayward()
"""
COLOURS = {
    "raises": ((255, 0, 0), "model_failed"),
    "calls sys.exit": ((0, 255, 0), "model_failed"),
    "returns too few rows": ((0, 0, 255), "model_output_invalid"),
    "returns too many rows": ((255, 255, 0), "model_output_invalid"),
    "returns NaN": ((255, 255, 255), "model_output_invalid"),
}


@pytest.fixture(scope="module")
def wayward(tmp_path_factory):
    return make_coloured(tmp_path_factory.mktemp("wayward") / "models", "wayward", CODE)


def test_e6_e16_what_a_model_does_wrong_is_500_in_words_and_it_serves_on(serve, wayward):
    server = serve(wayward)
    engine = server.engine()
    for wrong, (colour, name) in COLOURS.items():
        answer = ask(server, colour)
        assert (wrong, answer.status_code, answer.json()["type"]) == (wrong, 500, f"urn:gradless:problem:{name}")
        assert "Traceback" not in answer.text
        right = ask(server, (9, 9, 9))
        assert (wrong, right.status_code) == (wrong, 200)
        counted = server.metric("gradless_rejected_total", model="wayward", reason=name)
        assert counted == [n for _, n in list(COLOURS.values())[: list(COLOURS).index(wrong) + 1]].count(name)
    assert server.engine() == engine


def test_e6_a_row_of_nan_fails_its_own_request_and_nobody_else_in_the_batch(serve, wayward):
    model = direct(wayward, "wayward")
    server = serve(wayward)
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(20)
        for _ in range(20):
            white = ask(server, (255, 255, 255))
            assert white.status_code == 500
        traffic.wait_for_answers(20)
    traffic.assert_all_right(model)


def test_e6_predict_says_what_a_row_of_nan_is_and_answers_the_others(wayward, tmp_path, here):
    for name, colour in {"grey": (9, 9, 9), "white": (255, 255, 255)}.items():
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{name}.png")
    code, out, err = here("predict", tmp_path, "--models", wayward, "--json")
    assert code == 1, err
    grey, white = json.loads(out)["predictions"]
    assert len(grey["classes"]) == 5
    assert white == {"file": str(tmp_path / "white.png"), "error": "The model returned NaN for this input."}


def test_e17_a_worker_that_dies_takes_its_process_with_it_and_nothing_is_lost(serve, wayward):
    model = direct(wayward, "wayward")
    server = serve(wayward)
    (wayward / "wayward" / "died").unlink(missing_ok=True)
    with Traffic(server, 8) as traffic:
        traffic.wait_for_answers(20)
        cyan = ask(server, (0, 255, 255))
        traffic.wait_for_answers(20)
    assert cyan.status_code == 200
    traffic.assert_all_right(model)
    assert restarts(server, "exit 1") == 1
