"""The door: who has come is let in, who comes after it is shut is not, and neither is reset."""

from __future__ import annotations

import socket
import sys

import pytest

from service.frontend.door import turn_away

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="socket filters are Linux's")


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_who_has_come_is_heard_and_who_comes_later_is_not_let_in(family, host):
    with socket.create_server((host, 0), family=family) as listener:
        before = socket.create_connection(listener.getsockname()[:2], timeout=5)
        turn_away(listener)
        with pytest.raises(TimeoutError):
            socket.create_connection(listener.getsockname()[:2], timeout=0.2)
        accepted, _ = listener.accept()
        with before, accepted:
            before.sendall(b"still here")
            assert accepted.recv(20) == b"still here"
            accepted.sendall(b"welcome")
            assert before.recv(20) == b"welcome"
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
