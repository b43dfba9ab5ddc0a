"""Row C5 of the fault matrix: two replicas behind a real proxy, restarted one after the other under load."""

from __future__ import annotations

import pytest

from tests.support.models import direct, make_trivial
from tests.support.proxy import HAPROXY, free_ports, proxy, wait_for_up
from tests.support.server import Server
from tests.support.traffic import Traffic


@pytest.mark.skipif(not HAPROXY, reason="Debian's package haproxy is not installed")
def test_c5_a_rolling_restart_behind_a_proxy_fails_no_request(serve, tmp_path):
    models = make_trivial(tmp_path / "models")
    a, b = free_ports(2)

    def replica(at: int) -> Server:
        return serve(models, "--port", str(at), "--drain-delay-seconds", "1")

    replicas = {"a": replica(a), "b": replica(b)}
    with proxy(tmp_path, a, b) as front:
        with Traffic(front, 8) as traffic:
            for name, at in (("a", a), ("b", b)):
                traffic.wait_for_answers(40)
                assert replicas[name].stop() == 0
                replicas[name] = replica(at)
                wait_for_up(front.url, name)
            traffic.wait_for_answers(40)
        traffic.assert_all_right(direct(models, "trivial"))
        print(f"{len(traffic.answers)} answered over two restarts, 0 failed")
