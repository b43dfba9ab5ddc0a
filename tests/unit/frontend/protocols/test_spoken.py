"""The list of protocols: names, paths and the form of a refusal by path."""

from __future__ import annotations

import re

import pytest

from service.errors import Unprocessable
from service.frontend.protocols.spoken import protocols
from service.metrics import OWN_PROTOCOL


@pytest.fixture(autouse=True)
def on_vertex(monkeypatch):
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/vertex/predict")


def test_each_has_a_name_of_its_own_and_ours_is_the_last():
    spoken = protocols()
    names = [protocol.name for protocol in spoken]
    assert len(set(names)) == len(names)
    assert names[-1] == OWN_PROTOCOL
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in names)
    assert len({protocol.title for protocol in spoken}) == len(spoken)


def test_no_path_is_that_of_two():
    paths = [path for protocol in protocols() for path in protocol.paths]
    assert len(set(paths)) == len(paths)
    assert all(path.startswith("/") for path in paths)


def test_the_first_whose_prefix_a_path_has_is_the_one_that_it_is_of():
    spoken = protocols()
    for protocol in spoken:
        for path in protocol.paths:
            assert next(each for each in spoken if path.startswith(each.prefixes)) is protocol


@pytest.mark.parametrize("path", ["/nothing", "/", "/models/m", "/health/live"])
def test_every_other_path_is_ours(path):
    spoken = protocols()
    assert next(each for each in spoken if path.startswith(each.prefixes)).name == OWN_PROTOCOL


def test_without_a_route_of_vertex_there_is_no_path_of_its(monkeypatch):
    monkeypatch.delenv("AIP_PREDICT_ROUTE")
    (vertex,) = [protocol for protocol in protocols() if protocol.name == "vertex"]
    assert (vertex.paths, vertex.prefixes) == ((), ())
    assert not "/predict".startswith(vertex.prefixes)


def test_a_refusal_has_a_form_and_a_status_of_each_protocol():
    statuses = {protocol.name: protocol.refused(Unprocessable("no"), "id").status_code for protocol in protocols()}
    assert statuses.pop("open_inference") == 400
    assert set(statuses.values()) == {422}
    for protocol in protocols()[:-1]:
        answer = protocol.refused(Unprocessable("no"), "id")
        assert (answer.body, answer.media_type) == (b'{"error":"no"}', "application/json")
