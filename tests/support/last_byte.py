"""The time from the last byte of a body to its answer, without that of sending it."""

from __future__ import annotations

import fcntl
import socket
import termios
import time

from tests.support.server import Server, wait_for


def status_after_the_last_byte(server: Server, path: str, body: bytes, kind: str) -> tuple[int, float]:
    """Send a body but for its last byte, wait until the server has it, send that; the status, and seconds since."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode() + body[:-1])
        sent = lambda: fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)) == bytes(4)  # noqa: E731
        wait_for(sent, 10, "everything sent")
        began = time.monotonic()
        connection.sendall(body[-1:])
        answer = connection.recv(64)
        return int(answer.split()[1]), time.monotonic() - began
