"""Row C5 of the fault matrix: two replicas behind a real proxy, restarted one after the other under load."""

from __future__ import annotations

import shutil
import socket
import subprocess
from types import SimpleNamespace

import httpx
import pytest

from tests.support.models import direct, make_trivial
from tests.support.server import Server, wait_for
from tests.support.traffic import Traffic

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin")

#: It tries nothing twice: what a replica does not answer is a failure. It asks for readiness five times a second.
PROXY = """\
defaults
    mode http
    retries 0
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend clients
    bind 127.0.0.1:{port}
    stats enable
    stats uri /proxy
    default_backend replicas
backend replicas
    option httpchk GET /health/ready
    default-server check inter 200ms fall 1 rise 1
    server a 127.0.0.1:{a}
    server b 127.0.0.1:{b}
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.mark.skipif(not HAPROXY, reason="Debian's package haproxy is not installed")
def test_c5_a_rolling_restart_behind_a_proxy_fails_no_request(serve, tmp_path):
    models = make_trivial(tmp_path / "models")
    port, a, b = free_ports(3)
    (tmp_path / "haproxy.cfg").write_text(PROXY.format(port=port, a=a, b=b))

    def replica(at: int) -> Server:
        return serve(models, "--port", str(at), "--drain-delay-seconds", "1")

    replicas = {"a": replica(a), "b": replica(b)}
    proxy = subprocess.Popen([str(HAPROXY), "-f", str(tmp_path / "haproxy.cfg")], stderr=subprocess.DEVNULL)
    try:
        behind = SimpleNamespace(url=f"http://127.0.0.1:{port}")
        for name in replicas:
            wait_for(lambda name=name: is_up(behind.url, name), 20, f"{name} up")
        with Traffic(behind, 8) as traffic:
            for name, at in (("a", a), ("b", b)):
                traffic.wait_for_answers(40)
                assert replicas[name].stop() == 0
                replicas[name] = replica(at)
                wait_for(lambda name=name: is_up(behind.url, name), 30, f"{name} up again")
            traffic.wait_for_answers(40)
        traffic.assert_all_right(direct(models, "trivial"))
        print(f"{len(traffic.answers)} answered over two restarts, 0 failed")
    finally:
        proxy.terminate()
        proxy.wait(10)


def is_up(url: str, replica: str) -> bool:
    """As the proxy sees it."""
    try:
        rows = httpx.get(f"{url}/proxy;csv", timeout=5).text.splitlines()
    except httpx.TransportError:
        return False
    return any(row.startswith(f"replicas,{replica},") and ",UP," in row for row in rows)
