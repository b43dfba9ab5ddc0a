"""Responses: an answer with its times, what an unfinished request is refused with, and JSON of anything else."""

from __future__ import annotations

import asyncio

import msgspec
from starlette.responses import Response

from service.errors import ClientLeft, Draining, Refusal
from service.tasks.outputs.answer import Written
from service.wire.messages import ModelState, Result


class Answered(Response):
    """A 200 whose headers are known: 0.6 µs to make, against 3.0 µs with starlette's own constructor.

    Args:
        timing: the `Server-Timing`.
        named: whether the body says which model has answered.
    """

    def __init__(self, written: Written, timing: str, by: ModelState, named: bool) -> None:
        self.status_code = 200
        self.background = None
        self.body = written.body
        self.raw_headers = [
            (b"content-length", b"%d" % len(written.body)),
            (b"content-type", written.media_type),
            (b"server-timing", timing.encode()),
            *written.headers,
        ]
        if not named:
            self.raw_headers += [
                (b"x-gradless-model", by.name.encode()),
                (b"x-gradless-version", by.version.encode()),
            ]


def json_response(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def server_timing(result: Result, decode: float, total: float) -> str:
    """Milliseconds by stage (https://www.w3.org/TR/server-timing/)."""
    return (
        f"decode;dur={decode * 1000:.2f}, queue;dur={result.queue_seconds * 1000:.2f}, "
        f"forward;dur={result.forward_seconds * 1000:.2f}, total;dur={total * 1000:.2f}"
    )


def refusal_of(cancelled: asyncio.CancelledError) -> Refusal:
    """Return what a request is refused with whose task was cancelled.

    The connection does that when its client has left or sent what is not HTTP; uvicorn, when a drain takes too long.
    """
    if cancelled.args and isinstance(cancelled.args[0], Refusal):
        return cancelled.args[0]
    if cancelled.args == (ClientLeft.name,):
        return ClientLeft("The client left before its answer.")
    return Draining("The server is shutting down, and this request was not done in time.")
