"""POST /predict: one request from its body to its answer."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from service.engine.client import EngineClient
from service.engine.wire import ModelState, Result
from service.errors import Malformed, ModelNotFound, NotReady, Refusal, Unprocessable
from service.frontend.inputs import Picture, read_pictures
from service.frontend.limits import read_body
from service.loader.card import InputSpec
from service.metrics import Metrics, RequestMetrics
from service.settings import Settings
from service.tasks.classification import ImageDecoder

DEFAULT_TOP_K = 5
MAX_TOP_K = 100


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


@dataclass(frozen=True)
class Ask:
    """What a request wants, its body aside. Times are CLOCK_MONOTONIC seconds."""

    model: str
    top_k: int
    received: float
    deadline: float


class Predictor:
    """Answers requests: reads, decodes, asks an engine, writes JSON."""

    def __init__(
        self,
        client: EngineClient,
        default_model: str,
        pool: ThreadPoolExecutor,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._client = client
        self._default_model = default_model
        self._pool = pool
        self._settings = settings
        self._metrics = metrics
        self._request_metrics: dict[str, RequestMetrics] = {}
        self._decoders: dict[tuple[str, str], ImageDecoder] = {}

    async def answer(self, request: Request, model: str | None) -> Response:
        """The response to a request for a model; None is the default model.

        Every way out is counted once, under the model's name or, where there is no such model, `unknown`.
        """
        received = time.monotonic()
        name = model if model is not None else self._default_model
        label = name if name in self._client.models else "unknown"
        counted = self._metrics_of(label)
        counted.count_in_flight(1)
        status = 500
        try:
            response = await self._answer(request, name, received)
            status = response.status_code
            return response
        except Refusal as refusal:
            status = refusal.status
            self._metrics.rejected.labels(label, refusal.name).inc()
            raise
        finally:
            counted.count_in_flight(-1)
            (counted.ok if status == 200 else self._metrics.requests.labels(label, "gradless", str(status))).inc()
            counted.duration.observe(time.monotonic() - received)

    async def _answer(self, request: Request, name: str, received: float) -> Response:
        state = self._model(name)
        ask = Ask(name, _top_k(request.query_params), received, received + self._timeout(request.headers))
        body = await read_body(request, self._settings)
        pictures = await read_pictures(request.headers, body, self._settings.max_instances)
        with self._client.admit(name, len(pictures), ask.deadline):
            began = time.monotonic()
            pixels = await self._decode(state, pictures)
            decoded = time.monotonic()
            self._metrics_of(name).decode.observe(decoded - began)
            result, served = await self._client.infer(name, pixels, ask.top_k, ask.deadline)
        return Response(
            msgspec.json.encode(_readable(result, served, len(pictures))),
            media_type="application/json",
            headers={"Server-Timing": _server_timing(result, decoded - began, time.monotonic() - received)},
        )

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

    async def _decode(self, state: ModelState, pictures: list[Picture]) -> Tensor:
        """`(N, 3, crop, crop) uint8`; a small picture here, others in the pool. The first bad one is named."""
        decoder = self._decoder(state)
        first = pictures[0]
        if len(pictures) == 1 and isinstance(first, bytes) and (quick := decoder.decode_if_quick(first)) is not None:
            return quick.unsqueeze(0)
        loop = asyncio.get_running_loop()
        decoding = [loop.run_in_executor(self._pool, _decode_one, decoder, picture) for picture in pictures]
        tensors: list[Tensor] = []
        for position, future in enumerate(decoding):
            try:
                tensors.append(await future)
            except Refusal as refusal:
                for later in decoding[position + 1 :]:
                    later.cancel()
                if len(pictures) == 1:
                    raise
                words = f"Picture {position} of {len(pictures)}, from 0: {refusal.detail}"
                raise type(refusal)(words) from refusal
        return torch.stack(tensors)

    def _decoder(self, state: ModelState) -> ImageDecoder:
        key = (state.name, state.version)
        if key not in self._decoders:
            self._decoders[key] = ImageDecoder(InputSpec(**state.input), self._settings.max_pixels)
        return self._decoders[key]

    def _metrics_of(self, label: str) -> RequestMetrics:
        if label not in self._request_metrics:
            self._request_metrics[label] = RequestMetrics(self._metrics, label)
        return self._request_metrics[label]


def _decode_one(decoder: ImageDecoder, picture: Picture) -> Tensor:
    return decoder.decode(picture) if isinstance(picture, bytes) else decoder.from_pixels(picture)


def _top_k(query: Mapping[str, str]) -> int:
    stated = query.get("top_k", str(DEFAULT_TOP_K))
    if not re.fullmatch(r"\d{1,9}", stated) or not 1 <= int(stated) <= MAX_TOP_K:
        raise Unprocessable(f"top_k is {stated[:40]!r}; it must be a whole number from 1 to {MAX_TOP_K}.")
    return int(stated)


def _readable(result: Result, state: ModelState, count: int) -> Answer:
    probabilities = np.frombuffer(result.probabilities, np.float32).reshape(count, result.k).tolist()
    ids = np.frombuffer(result.ids, np.int32).reshape(count, result.k).tolist()
    predictions = [
        Prediction([Class(i, state.labels[i], float(f"{p:.7g}")) for i, p in zip(*row, strict=True)])
        for row in zip(ids, probabilities, strict=True)
    ]
    return Answer(state.name, state.version, predictions)


def _server_timing(result: Result, decode: float, total: float) -> str:
    """Milliseconds by stage (https://www.w3.org/TR/server-timing/)."""
    stages = {
        "decode": decode,
        "queue": result.queue_seconds,
        "forward": result.forward_seconds,
        "total": total,
    }
    return ", ".join(f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in stages.items())
