"""haproxy in front of two replicas, as it is started by a test."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx

from tests.support.server import wait_for

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin")

#: It asks for readiness five times a second.
PROXY = """\
global
    tune.bufsize 1048576
defaults
    mode http
    {again}
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend clients
    bind 127.0.0.1:{port}
    stats enable
    stats uri /proxy
    default_backend replicas
backend replicas
    balance {balance}
    option httpchk GET /health/ready
    default-server check inter 200ms fall 1 rise 1
    server a 127.0.0.1:{a}
    server b 127.0.0.1:{b}
"""
#: What a replica does not answer is a failure.
NEVER = "retries 0"
#: A request whose connection broke is asked of the other replica: a frozen model is a pure function, so that is safe
#: for this POST. It has to be whole in the buffer.
OF_THE_OTHER = """\
option http-buffer-request
    option redispatch 1
    retries 3
    retry-on conn-failure empty-response response-timeout"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextlib.contextmanager
def proxy(folder: Path, a: int, b: int, again: str = NEVER, balance: str = "roundrobin") -> Iterator[SimpleNamespace]:
    """A proxy that sees both replicas up; it has a `url`."""
    [port] = free_ports(1)
    (folder / "haproxy.cfg").write_text(PROXY.format(again=again, balance=balance, port=port, a=a, b=b))
    process = subprocess.Popen([str(HAPROXY), "-f", str(folder / "haproxy.cfg")], stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for name in "ab":
            wait_for_up(url, name)
        yield SimpleNamespace(url=url)
    finally:
        process.terminate()
        process.wait(10)


def wait_for_up(url: str, replica: str, limit: float = 40) -> None:
    wait_for(lambda: is_up(url, replica), limit, f"{replica} up")


def is_up(url: str, replica: str) -> bool:
    """As the proxy sees it."""
    try:
        rows = httpx.get(f"{url}/proxy;csv", timeout=5).text.splitlines()
    except httpx.TransportError:
        return False
    return any(row.startswith(f"replicas,{replica},") and ",UP," in row for row in rows)
