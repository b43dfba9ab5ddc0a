"""The sockets that the server is asked on, bound before anything is started, and the certificate that they need."""

from __future__ import annotations

import errno
import socket
import ssl
from pathlib import Path
from typing import Any

from service.errors import ConfigurationError
from service.settings import Settings

_HOST_FIX = "name an address of this machine, such as 127.0.0.1, ::1, or 0.0.0.0 for all"
#: Faults of the port; every other one is the host's.
_OF_THE_PORT = (errno.EADDRINUSE, errno.EACCES)


def bind(settings: Settings) -> list[socket.socket]:
    """Return the socket for clients and, where it has a port of its own, the one for operations.

    Raises:
        ConfigurationError: an address cannot be had; it names the setting that is wrong.
    """
    listeners = [_bind(settings.host, settings.port, "port")]
    if settings.operations_port is not None:
        try:
            listeners.append(_bind(settings.host, settings.operations_port, "operations_port"))
        except ConfigurationError:
            listeners[0].close()
            raise
    return listeners


def _bind(host: str, port: int, key: str) -> socket.socket:
    """A socket bound and not yet listening: until a front end is there, connections are refused."""
    family, address = _address(host, port)
    try:
        # asyncio sets TCP_NODELAY only on sockets that say IPPROTO_TCP; without it a request costs 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except OSError as error:
        raise _no_host(host, error.strerror or str(error)) from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        words = error.strerror or str(error)
        if error.errno not in _OF_THE_PORT:
            raise _no_host(host, words) from error
        fix = f"choose a free --{key.replace('_', '-')}"
        raise ConfigurationError.at("settings", key, f"cannot listen on {host} port {port}: {words}", fix) from error
    return listener


def _address(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """The first address of a host, an IPv4 one where it has one: `localhost` is then what clients try.

    Raises:
        ConfigurationError: it has none.
    """
    if host.startswith("unix:"):
        raise _no_host(host, "Unix sockets are not served, only TCP")
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        if not name:
            raise OSError("it is empty")
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)  # * is all, as in libc
    except (OSError, ValueError) as error:  # a name that cannot be encoded is a ValueError
        raise _no_host(host, getattr(error, "strerror", None) or str(error)) from error
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, address


def _no_host(host: str, words: str) -> ConfigurationError:
    return ConfigurationError.at("settings", "host", f"cannot listen on {host!r}: {words}", _HOST_FIX)


def check_certificate(settings: Settings) -> None:
    """Load the certificate and its key once, as every front end will.

    Raises:
        ConfigurationError: a file is missing or lacks what it should hold, or the key is not the certificate's.
    """
    certificate, key = settings.ssl_certfile, settings.ssl_keyfile
    if certificate is None:
        if key is not None:
            raise _no_tls("ssl_keyfile", key, "there is no --ssl-certfile beside it", "name the certificate chain too")
        return
    _check_holds(certificate, "ssl_certfile", "CERTIFICATE-----", "a certificate chain in PEM")
    holder, setting = (key, "ssl_keyfile") if key else (certificate, "ssl_certfile")
    lacking = "a private key in PEM" if key else "a private key besides; name its file with --ssl-keyfile"
    _check_holds(holder, setting, "PRIVATE KEY-----", lacking)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except _EncryptedError:
        raise _no_tls(setting, holder, "the private key is encrypted", "decrypt it with openssl pkey") from None
    except ssl.SSLError as error:
        words = (error.reason or str(error)).replace("_", " ").lower()
        raise _no_tls(setting, holder, f"OpenSSL: {words}", "give a certificate and the key it was made for") from error


class _EncryptedError(Exception):
    """A password was asked for."""


def _no_password() -> str:
    raise _EncryptedError


def _check_holds(file: Path, setting: str, mark: str, what: str) -> None:
    """Refuse a file without a PEM block of a kind; OpenSSL says no more of either fault than `PEM lib`.

    Raises:
        ConfigurationError: there is none, or the file cannot be read.
    """
    try:
        text = file.read_bytes()
    except OSError as error:
        raise _no_tls(setting, file, f"cannot be read: {error.strerror}", "name a file in PEM") from error
    if mark.encode() not in text:
        raise _no_tls(setting, file, f"holds no {mark.rstrip('-').lower()}", f"it must hold {what}")


def _no_tls(setting: str, file: Path, problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError.at(file, setting, problem, fix)
