"""Variables that begin as ours do: which of them an orchestrator has set, and which are mistakes."""

from __future__ import annotations

import pytest

from service.host.environment import is_service_link, service_links, unknown_variables


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRADLESS_SERVICE_HOST", "10.0.0.1"),
        ("GRADLESS_SERVICE_PORT", "8000"),
        ("GRADLESS_SERVICE_PORT_HTTP", "8000"),
        ("GRADLESS_PORT", "tcp://10.0.0.1:8000"),
        ("GRADLESS_PORT", "udp://10.0.0.1:8000"),
        ("GRADLESS_PORT", "sctp://10.0.0.1:8000"),
        ("GRADLESS_PORT", "tcp://[fd00::1]:8000"),
        ("GRADLESS_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("GRADLESS_PORT_8000_TCP_PROTO", "tcp"),
        ("GRADLESS_PORT_8000_TCP_PORT", "8000"),
        ("GRADLESS_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("GRADLESS_PORT_53_UDP_ADDR", "10.0.0.1"),
        ("GRADLESS_OPERATIONS_PORT", "tcp://10.0.0.1:9000"),
        ("GRADLESS_X_SERVICE_HOST", "10.0.0.1"),
        ("GRADLESS_X_PORT", "tcp://10.0.0.1:80"),
        ("GRADLESS_X_Y_PORT_80_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_a_service_link_is_known(name, value):
    assert is_service_link(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRADLESS_PORT", "9000"),
        ("GRADLESS_PORT", "seventy"),
        ("GRADLESS_PORT", ""),
        ("GRADLESS_PORT", "http://10.0.0.1:8000"),
        ("GRADLESS_OPERATIONS_PORT", "9000"),
        ("GRADLESS_HOST", "tcp://10.0.0.1:8000"),
        ("GRADLESS_X_PORT", "80"),
        ("GRADLESSX_PORT", "tcp://10.0.0.1:80"),
        ("REDIS_PORT", "tcp://10.0.0.1:6379"),
    ],
)
def test_anything_else_is_not_one(name, value):
    assert not is_service_link(name, value)


def test_an_unknown_variable_is_told_with_what_may_be_meant(monkeypatch):
    for name, value in {
        "GRADLESS_PROT": "9000",
        "GRADLESS_PORT": "9000",
        "gradless_host": "::",
        "GRADLESS_X_PORT": "tcp://10.0.0.1:80",
        "GRADLESS_ZZZ": "1",
        "AWS_REGION": "eu-west-1",
    }.items():
        monkeypatch.setenv(name, value)
    found = unknown_variables(["port", "host"])
    assert found["GRADLESS_PROT"] == "did you mean GRADLESS_PORT?"
    assert found["GRADLESS_ZZZ"] == "there are GRADLESS_HOST, GRADLESS_PORT"
    assert not {"GRADLESS_PORT", "gradless_host", "GRADLESS_X_PORT", "AWS_REGION"} & set(found)
    assert service_links() == ["GRADLESS_X_PORT"]
