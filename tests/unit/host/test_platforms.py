"""Ports and paths that platforms set by variables of theirs, and what comes before and after them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.errors import ConfigurationError
from service.host.platforms import VertexRoutes, platform_settings, vertex_routes
from service.settings import read_settings

EVERY = "0.0.0.0"
PORTS = ("AIP_HTTP_PORT", "SAGEMAKER_BIND_TO_PORT", "PORT")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    foreign = (*PORTS, "K_SERVICE", "AIP_PREDICT_ROUTE", "AIP_HEALTH_ROUTE")
    for name in [name for name in os.environ if name.upper().startswith("GRADLESS_") or name in foreign]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("environment", "port"),
    [
        ({"AIP_HTTP_PORT": "8080"}, 8080),
        ({"SAGEMAKER_BIND_TO_PORT": " 8081 "}, 8081),
        ({"PORT": "8082", "K_SERVICE": "gradless"}, 8082),
        ({"PORT": "8082", "K_SERVICE": ""}, 8082),
        ({"AIP_HTTP_PORT": "8080", "SAGEMAKER_BIND_TO_PORT": "8081"}, 8080),
        ({"AIP_HTTP_PORT": "", "SAGEMAKER_BIND_TO_PORT": "8081"}, 8081),
        ({"AIP_HTTP_PORT": "1"}, 1),
        ({"AIP_HTTP_PORT": "65535"}, 65535),
    ],
)
def test_a_platform_s_port_is_taken_on_every_address(environment, port):
    assert platform_settings(environment) == {"host": EVERY, "port": port}


@pytest.mark.parametrize(
    "environment", [{}, {"PORT": "9000"}, {"PORT": "tcp://10.0.0.1:80"}, {"K_SERVICE": "x"}, {"AIP_HTTP_PORT": " "}]
)
def test_nothing_is_set_elsewhere(environment):
    assert platform_settings(environment) == {}


@pytest.mark.parametrize("name", PORTS)
@pytest.mark.parametrize("port", ["0", "65536", "-1", "80.0", "eighty", "8_0", "٨٠", "tcp://10.0.0.1:80", "9" * 5000])
def test_what_is_not_a_port_is_an_error_that_names_the_variable(name, port):
    with pytest.raises(ConfigurationError) as raised:
        platform_settings({name: port, "K_SERVICE": "x"})
    assert name in str(raised.value)
    assert "set 1 to 65535" in str(raised.value)
    assert len(str(raised.value)) < 300


def test_it_is_below_flags_and_our_own_variables_and_above_the_file(here, monkeypatch):
    (here / "gradless.toml").write_text("port = 7000\nhost = '127.0.0.7'\n")
    assert (read_settings({}).host, read_settings({}).port) == ("127.0.0.7", 7000)
    monkeypatch.setenv("AIP_HTTP_PORT", "7001")
    assert (read_settings({}).host, read_settings({}).port) == (EVERY, 7001)
    (here / ".env").write_text("GRADLESS_PORT=7002\n")
    assert (read_settings({}).host, read_settings({}).port) == (EVERY, 7002)
    monkeypatch.setenv("GRADLESS_PORT", "7003")
    assert read_settings({}).port == 7003
    monkeypatch.setenv("GRADLESS_HOST", "127.0.0.8")
    assert read_settings({}).host == "127.0.0.8"
    assert (read_settings({"port": 7004}).port, read_settings({"host": "::1"}).host) == (7004, "::1")


def test_port_alone_is_passed_over(monkeypatch):
    monkeypatch.setenv("PORT", "7001")
    assert read_settings({}).port == 8000
    monkeypatch.setenv("K_SERVICE", "gradless")
    assert read_settings({}).port == 7001


def test_a_port_that_is_none_is_told_before_anything_starts(monkeypatch):
    monkeypatch.setenv("AIP_HTTP_PORT", "none")
    with pytest.raises(ConfigurationError, match="AIP_HTTP_PORT"):
        read_settings({})


def test_vertex_s_routes_are_taken_as_they_are():
    found = vertex_routes({"AIP_PREDICT_ROUTE": "/v1/endpoints/7:predict", "AIP_HEALTH_ROUTE": "/v1/models/1"})
    assert found == ("/v1/endpoints/7:predict", "/v1/models/1")
    assert vertex_routes({}) == VertexRoutes("", "")


@pytest.mark.parametrize("name", ["AIP_PREDICT_ROUTE", "AIP_HEALTH_ROUTE"])
@pytest.mark.parametrize("route", ["predict", "http://x/predict", "/a?b", "/a#b", "/{model}", "/a b"])
def test_a_route_that_is_no_path_is_an_error_that_names_the_variable(name, route):
    with pytest.raises(ConfigurationError, match=name):
        vertex_routes({name: route})
