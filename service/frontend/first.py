"""Requests for predictions before everything else: the framework's middlewares and routes are for the other paths."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Refusal
from service.frontend.predict import Call, Predictor
from service.frontend.protocols.protocol import Protocol

log = structlog.get_logger()

#: Paths of which is kept what they ask for.
MOST_PATHS = 1024


class PredictFirst:
    """Answers requests for predictions, of whichever protocol, and hands all else on.

    Of two protocols with one path the first has it. FastAPI documents their paths; five middlewares and a table of
    routes would be a third of what Python does for them.
    """

    def __init__(self, app: ASGIApp, predictor: Predictor, root_path: str, protocols: Sequence[Protocol]) -> None:
        self._app = app
        self._predictor = predictor
        self._root_path = root_path
        self._call = functools.lru_cache(MOST_PATHS)(self._find_call)  # 2 µs a request less
        self._whole: dict[str, Call] = {}
        self._named: dict[str, list[tuple[re.Pattern[str], Protocol]]] = {}
        for protocol in protocols:
            for path in protocol.paths:
                if "{" not in path:
                    self._whole.setdefault(path, Call(protocol))
                else:
                    self._named.setdefault(_first_part(path), []).append((_pattern(path), protocol))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and (call := self._call(scope["path"])):
            await self._answer(call, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _find_call(self, path: str) -> Call | None:
        """Return what is asked for at a path, if it is one of predictions."""
        if self._root_path:
            path = below_root(path, self._root_path)
        if call := self._whole.get(path):
            return call
        for pattern, protocol in self._named.get(_first_part(path), ()):
            if found := pattern.fullmatch(path):
                return Call(protocol, **found.groupdict())
        return None

    async def _answer(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)

        responded = False

        async def respond(response: Response) -> None:
            nonlocal responded
            responded = True
            await response(scope, receive, send)

        try:
            await self._predictor.answer(request, call, respond)
        except Refusal as refusal:
            await respond(call.protocol.refused(refusal, request.state.request_id))
        except Exception:  # a bug: no traceback reaches a client, and none is lost
            log.exception("predict failed", request_id=request.state.request_id)
            if responded:
                raise
            bug = Refusal("The server failed; see its log.")
            await respond(call.protocol.refused(bug, request.state.request_id))


def below_root(path: str, root_path: str) -> str:
    """Return a path without the prefix of a proxy, which takes it away or does not."""
    root = root_path.rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _first_part(path: str) -> str:
    """Return `models` of `/models/{model}/predict`: no other pattern of a path is looked at."""
    return path[1:].partition("/")[0]


def _pattern(path: str) -> re.Pattern[str]:
    """Return the pattern of a path such as `/models/{model}/predict`."""
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path)))
