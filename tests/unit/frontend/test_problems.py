import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.frontend.problems import Envelope

SCOPE = {"type": "http", "method": "GET", "path": "/x", "raw_path": b"/x", "headers": [(b"x-request-id", b"mine")]}


def answered(app: Callable[..., Coroutine[Any, Any, None]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return what is sent and logged, in its order; and the lines of the log."""
    order: list[str] = []
    with capture_logs(processors=[lambda _logger, _name, event: order.append("line") or event]) as lines:

        async def send(message: dict[str, Any]) -> None:
            order.append(message["type"])

        envelope = Envelope(app, lambda: False, access_log=True)
        try:
            asyncio.run(envelope(dict(SCOPE), None, send))
        except ConnectionError:
            order.append("raised")
    return order, lines


async def whole(_scope, _receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def cut_off(_scope, _receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise ConnectionError


async def silent(_scope, _receive, _send) -> None:
    raise ConnectionError


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        (whole, ["http.response.start", "http.response.body", "line"]),
        (cut_off, ["http.response.start", "line", "raised"]),
        (silent, ["raised"]),
    ],
)
def test_a_response_has_its_line_once_it_is_sent_however_it_ends(app, expected):
    order, lines = answered(app)
    assert order == expected
    assert [line["request_id"] for line in lines] == ["mine"] * expected.count("line")
