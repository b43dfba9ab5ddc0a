"""POST /predict: one request from its body to its answer."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import torch
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from service.engine.client import EngineClient, InputChangedError, Pixels
from service.engine.wire import ModelState, Result
from service.errors import ClientLeft, Draining, Malformed, ModelNotFound, NotReady, Refusal, Unprocessable
from service.frontend.accounts import Accounts, Ended
from service.frontend.inputs import Picture, read_pictures
from service.frontend.keys import Keys
from service.frontend.limits import read_body
from service.loader.card import InputSpec
from service.settings import Settings
from service.tasks.classification import MODERATE, QUICK, ImageDecoder

DEFAULT_TOP_K = 5
MAX_TOP_K = 100
#: A request is not decoded more often, whatever reloads do meanwhile.
MOST_INPUT_CHANGES = 8


class Class(msgspec.Struct):
    id: int
    label: str
    probability: float


class Prediction(msgspec.Struct):
    classes: list[Class]


class Answer(msgspec.Struct):
    """The 200's body: one prediction for each picture, in order."""

    model: str
    version: str
    predictions: list[Prediction]


_encoder = msgspec.json.Encoder()


class Answered(Response):
    """A 200. Its headers are known: to find them out, starlette's own constructor takes as long as to encode the body.

    Args:
        body: JSON.
        timing: the `Server-Timing`.
    """

    def __init__(self, body: bytes, timing: str) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
            (b"server-timing", timing.encode()),
        ]


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request wants, its body aside, and seconds of decoding it. Times are CLOCK_MONOTONIC seconds."""

    model: str
    top_k: int
    received: float
    deadline: float
    decoding: list[float]


class Predictor:
    """Answers requests: reads, decodes, asks an engine, writes JSON."""

    def __init__(
        self,
        client: EngineClient,
        pool: ThreadPoolExecutor,
        settings: Settings,
        accounts: Accounts,
        keys: Keys | None,
    ) -> None:
        self._client = client
        self._pool = pool
        self._settings = settings
        self._accounts = accounts
        self._keys = keys
        self._decoders: dict[str, tuple[dict[str, Any], ImageDecoder]] = {}
        for name in client.models:
            accounts.open(name)

    async def answer(self, request: Request, model: str | None, respond: Callable[[Response], Awaitable[None]]) -> None:
        """Respond to a request for a model; None is the default model.

        Every way out is counted once, under the model's name or, where there is no such model, `unknown`: after the
        response, which nobody waits longer for.

        Raises:
            Refusal: there was no response yet; this is what it must be.
        """
        received = time.monotonic()
        name = model if model is not None else self._client.default_model
        label = name if name in self._client.models else "unknown"
        self._accounts.began(label)
        decoding: list[float] = []
        status, refused = 500, ""
        try:
            response = await self._answer(request, name, received, decoding)
            status = response.status_code
            await respond(response)
        except (Refusal, asyncio.CancelledError) as error:
            if status != 500:
                raise
            refusal = error if isinstance(error, Refusal) else _who_cancelled(error)
            status, refused = refusal.status, refusal.name
            raise refusal from None
        finally:
            self._accounts.ended(Ended(label, status, refused, time.monotonic() - received, decoding))

    async def _answer(self, request: Request, name: str, received: float, decoding: list[float]) -> Response:
        if self._keys:
            self._keys.check(request.headers)
        self._model(name)
        deadline = received + self._timeout(request.headers)
        ask = Ask(name, _top_k(request), received, deadline, decoding)
        body = await read_body(request, self._settings)
        pictures = await read_pictures(request.headers, body, self._settings.max_instances)
        with self._client.admit(name, len(pictures), ask.deadline):
            result, served = await self._infer(ask, pictures)
        body = _encoder.encode(_readable(result, served, len(pictures)))
        return Answered(body, _server_timing(result, decoding[-1], time.monotonic() - received))

    async def _infer(self, ask: Ask, pictures: list[Picture]) -> tuple[Result, ModelState]:
        """The answer, the model that gave it, and seconds of decoding; decoded again if a reload changes the input."""
        for _ in range(MOST_INPUT_CHANGES):
            began = time.monotonic()
            state = self._model(ask.model)
            pixels = await self._decode(state, pictures)
            ask.decoding.append(time.monotonic() - began)
            try:
                return await self._client.infer(state, pixels, ask.top_k, ask.deadline)
            except InputChangedError:
                continue
        raise NotReady(f"The input of {ask.model} changed {MOST_INPUT_CHANGES} times while this request was decoded.")

    def _model(self, name: str) -> ModelState:
        """The model as it is served now.

        Raises:
            ModelNotFound: no such folder.
            NotReady: it has not been ready yet, or failed.
        """
        state = self._client.models.get(name)
        if state is None:
            there = ", ".join(sorted(self._client.models))
            raise ModelNotFound(f"There is no model {name[:80]!r}; there are: {there}.")
        if state.state != "ready":
            raise NotReady(f"{name} is {state.state}{': ' + state.detail if state.detail else ''}.")
        return state

    def _timeout(self, headers: Mapping[str, str]) -> float:
        """Seconds that this request may take: X-Timeout-Ms, or the default."""
        stated = headers.get("x-timeout-ms")
        if stated is None:
            return self._settings.timeout_ms / 1000
        if not stated.isdecimal() or int(stated) < 1:
            raise Malformed(f"X-Timeout-Ms is {stated[:40]!r}; it must be a whole number of milliseconds, at least 1.")
        return min(int(stated), self._settings.max_timeout_ms) / 1000

    async def _decode(self, state: ModelState, pictures: list[Picture]) -> Pixels:
        """`(N, 3, crop, crop) uint8`; a small picture here, others in the pool. The first bad one is named."""
        decoder = self._decoder(state)
        first = pictures[0]
        if len(pictures) == 1 and isinstance(first, bytes):
            effort = MODERATE if self._client.has_no_more_than(1) else QUICK
            if (here := decoder.decode_within(effort, first)) is not None:
                return cast(Pixels, here.numpy()[None])
        loop = asyncio.get_running_loop()
        decoding = [loop.run_in_executor(self._pool, _decode_one, decoder, picture) for picture in pictures]
        tensors: list[Tensor] = []
        try:
            for future in decoding:
                tensors.append(await future)
        except Refusal as refusal:
            if len(pictures) == 1:
                raise
            words = f"Picture {len(tensors)} of {len(pictures)}, from 0: {refusal.detail}"
            raise type(refusal)(words) from refusal
        finally:
            for future in decoding:  # those after a bad one, or all that are left when the client leaves
                future.cancel()
        return cast(Pixels, torch.stack(tensors).numpy())

    def _decoder(self, state: ModelState) -> ImageDecoder:
        known = self._decoders.get(state.name)
        if known is None or known[0] != state.input:
            decoder = ImageDecoder(InputSpec(**state.input), self._settings.max_pixels)
            known = self._decoders[state.name] = (state.input, decoder)
        return known[1]


def _who_cancelled(cancelled: asyncio.CancelledError) -> Refusal:
    """The connection, when its client has left; else uvicorn, when a drain has taken too long."""
    if cancelled.args == (ClientLeft.name,):
        return ClientLeft("The client left before its answer.")
    return Draining("The server is shutting down, and this request was not done in time.")


def _decode_one(decoder: ImageDecoder, picture: Picture) -> Tensor:
    return decoder.decode(picture) if isinstance(picture, bytes) else decoder.from_pixels(picture)


def _top_k(request: Request) -> int:
    if not request.scope["query_string"]:
        return DEFAULT_TOP_K
    stated = request.query_params.get("top_k", str(DEFAULT_TOP_K))
    if not re.fullmatch(r"\d{1,9}", stated) or not 1 <= int(stated) <= MAX_TOP_K:
        raise Unprocessable(f"top_k is {stated[:40]!r}; it must be a whole number from 1 to {MAX_TOP_K}.")
    return int(stated)


def _readable(result: Result, state: ModelState, count: int) -> Answer:
    probabilities: list[Any] = memoryview(result.probabilities).cast("f", (count, result.k)).tolist()
    ids: list[Any] = memoryview(result.ids).cast("i", (count, result.k)).tolist()
    predictions = [
        Prediction([Class(i, state.labels[i], float(f"{p:.7g}")) for i, p in zip(*row, strict=True)])
        for row in zip(ids, probabilities, strict=True)
    ]
    return Answer(state.name, state.version, predictions)


def _server_timing(result: Result, decode: float, total: float) -> str:
    """Milliseconds by stage (https://www.w3.org/TR/server-timing/)."""
    return (
        f"decode;dur={decode * 1000:.2f}, queue;dur={result.queue_seconds * 1000:.2f}, "
        f"forward;dur={result.forward_seconds * 1000:.2f}, total;dur={total * 1000:.2f}"
    )
