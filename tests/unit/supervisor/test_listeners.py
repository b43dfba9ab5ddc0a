"""An address or a certificate that cannot be used ends the start, and the words name the setting that is wrong."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from service.errors import ConfigurationError
from service.settings import Settings
from service.supervisor.listeners import bind, check_certificate
from tests.support.certificates import NEW_KEY, make_certificate, openssl


def bound(**settings) -> list[tuple[str, int]]:
    """The host and port of each listener, which is closed again."""
    listeners = bind(Settings(**{"port": 0} | settings))
    names = [listener.getsockname()[:2] for listener in listeners]
    for listener in listeners:
        listener.close()
    return names


def refusal_of_bind(**settings) -> str:
    with pytest.raises(ConfigurationError) as refused:
        bound(**settings)
    return str(refused.value)


has_ipv6 = pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="the machine has no IPv6")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("*", "0.0.0.0"),
        pytest.param("::1", "::1", marks=has_ipv6),
        pytest.param("[::1]", "::1", marks=has_ipv6),
        pytest.param("[::]", "::", marks=has_ipv6),
    ],
)
def test_an_address_or_a_name_of_this_machine_is_bound(host, expected):
    assert [found for found, _ in bound(host=host, operations_port=0)] == [expected, expected]


NOT_HERE = [
    "unix:/run/gradless.sock",
    "",
    "[::1",
    "127.0.0.1:8000",
    "http://localhost",
    "256.1.1.1",
    "192.0.2.1",
    "nowhere.invalid",
    "a" * 64,
    "a..b",
    "a b",
    "a\0b",
    "ä" * 70,
]


@pytest.mark.parametrize("host", NOT_HERE)
def test_any_other_host_is_blamed_on_the_host_alone(host):
    said = refusal_of_bind(host=host)
    assert said.startswith(f"settings: host: cannot listen on {host!r}: ")
    assert "such as 127.0.0.1" in said
    assert "--port" not in said


@pytest.mark.parametrize(("key", "flag"), [("port", "--port"), ("operations_port", "--operations-port")])
def test_a_port_in_use_is_blamed_on_the_port_alone(key, flag):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = refusal_of_bind(**{key: taken.getsockname()[1]})
    assert said.startswith(f"settings: {key}: cannot listen on 127.0.0.1 port ")
    assert said.endswith(f"choose a free {flag}")


# Certificates


@pytest.fixture(scope="session")
def pem(tmp_path_factory) -> Path:
    """A folder with a certificate and its key, another key, the key encrypted, and both in one file."""
    folder = tmp_path_factory.mktemp("pem")
    make_certificate(folder)
    openssl(folder, *NEW_KEY, "other.pem")
    openssl(folder, "pkcs8", "-topk8", "-in", "key.pem", "-passout", "pass:secret", "-out", "encrypted.pem")
    openssl(folder, "ec", "-in", "key.pem", "-aes128", "-passout", "pass:secret", "-out", "encrypted_old.pem")
    cert, key, locked = ((folder / name).read_text() for name in ("cert.pem", "key.pem", "encrypted.pem"))
    (folder / "both.pem").write_text(cert + key)
    (folder / "both_encrypted.pem").write_text(cert + locked)
    (folder / "cut.pem").write_text(cert[: len(cert) // 2])
    (folder / "cut_key.pem").write_text(key[: len(key) // 2] + "\n-----END EC PRIVATE KEY-----\n")
    (folder / "empty.pem").write_text("")
    (folder / "der.pem").write_bytes(bytes(range(256)))
    return folder


def check(folder: Path, certificate: str | None, key: str | None) -> None:
    files = {"ssl_certfile": certificate, "ssl_keyfile": key}
    check_certificate(Settings(**{setting: folder / name for setting, name in files.items() if name}))


@pytest.mark.parametrize(("certificate", "key"), [(None, None), ("cert.pem", "key.pem"), ("both.pem", None)])
def test_a_certificate_with_its_key_passes(pem, certificate, key):
    check(pem, certificate, key)


@pytest.mark.parametrize(
    ("certificate", "key", "blamed", "words"),
    [
        ("cert.pem", None, "cert.pem: ssl_certfile", "name its file with --ssl-keyfile"),
        (None, "key.pem", "key.pem: ssl_keyfile", "no --ssl-certfile"),
        ("none.pem", "key.pem", "none.pem: ssl_certfile", "No such file"),
        ("cert.pem", "none.pem", "none.pem: ssl_keyfile", "No such file"),
        (".", "key.pem", ": ssl_certfile", "Is a directory"),
        ("empty.pem", "key.pem", "empty.pem: ssl_certfile", "holds no certificate"),
        ("der.pem", "key.pem", "der.pem: ssl_certfile", "holds no certificate"),
        ("key.pem", "cert.pem", "key.pem: ssl_certfile", "holds no certificate"),
        ("cert.pem", "cert.pem", "cert.pem: ssl_keyfile", "holds no private key"),
        ("cert.pem", "other.pem", "other.pem: ssl_keyfile", "key values mismatch"),
        ("cert.pem", "encrypted.pem", "encrypted.pem: ssl_keyfile", "is encrypted"),
        ("cert.pem", "encrypted_old.pem", "encrypted_old.pem: ssl_keyfile", "is encrypted"),
        ("both_encrypted.pem", None, "both_encrypted.pem: ssl_certfile", "is encrypted"),
        ("cut.pem", "key.pem", ": ssl_", "OpenSSL"),
        ("cert.pem", "cut_key.pem", "cut_key.pem: ssl_keyfile", "OpenSSL"),
    ],
)
def test_any_other_pair_is_refused_in_words(pem, certificate, key, blamed, words):
    with pytest.raises(ConfigurationError) as refused:
        check(pem, certificate, key)
    assert blamed in str(refused.value)
    assert words in str(refused.value)
