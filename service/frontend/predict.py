"""One request for predictions, whatever its protocol, from its body to its answer."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from service.errors import Malformed, NotReady, Refusal, TooLarge
from service.frontend.accounts import Accounts, Ended
from service.frontend.answered import Answered, refusal_of, server_timing
from service.frontend.codings import decode_body
from service.frontend.documentation import Documented, Served
from service.frontend.engines.client import Client, InputChangedError
from service.frontend.keys import Keys
from service.frontend.limits import by_deadline, headers_of, read_body
from service.frontend.protocols.protocol import LARGE_BYTES, Asked, Exchange, Protocol, Sides
from service.settings import Settings
from service.tasks.catalogue import INPUTS, TASKS, side
from service.tasks.inputs.input import Arrays, Given, Input, stacked
from service.tasks.outputs.answer import JSON, Written
from service.tasks.outputs.results import Results
from service.validation import whole_number
from service.wire.framing import MOST_TENSOR_BYTES
from service.wire.messages import ModelState, Result

#: The number of times that a request is decoded at most, whatever reloads do meanwhile.
MOST_INPUT_CHANGES = 8


class Call(NamedTuple):
    """A request's protocol, and what its path says.

    Attributes:
        model: None for the default model.
        version: of the model; empty if the path has none.
    """

    protocol: Protocol
    model: str | None = None
    version: str = ""


class _Reader(NamedTuple):
    """Everything that a request is read from; once more, if a reload comes in between."""

    protocol: Protocol
    asked: Asked
    body: bytes


class Inferred(NamedTuple):
    """A result, the model that gave it, the request as it was read for that, and the seconds that decoding took."""

    result: Result
    served: ModelState
    exchange: Exchange
    decode_seconds: float


class Predictor:
    """Answers requests: reads, decodes, asks an engine, writes JSON."""

    def __init__(
        self,
        client: Client,
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
        self._sides: dict[str, tuple[tuple[str, str, str], Sides]] = {}
        for name in client.known.models:
            accounts.open(name)

    async def answer(self, request: Request, call: Call, respond: Callable[[Response], Awaitable[None]]) -> None:
        """Respond to a request.

        Every way out is counted once, under the model's name or, where there is no such model, `unknown`: after the
        response, which nobody waits longer for.

        Raises:
            Refusal: there was no response yet; this is what it must be.
        """
        received = time.monotonic()
        name = call.model if call.model is not None else self._client.known.default_model
        label = name if name in self._client.known.models else "unknown"
        self._accounts.began(label)
        status, refused = 500, ""
        try:
            response = await self._answer(request, call, name, received)
            status = response.status_code
            await respond(response)
        except (Refusal, asyncio.CancelledError) as error:
            if status != 500:
                raise
            refusal = error if isinstance(error, Refusal) else refusal_of(error)
            status, refused = call.protocol.status(refusal), refusal.name
            raise refusal from None
        finally:
            self._accounts.ended(Ended(label, call.protocol.name, status, refused, time.monotonic() - received))

    async def _answer(self, request: Request, call: Call, name: str, received: float) -> Response:
        headers = headers_of(request)
        if self._keys:
            self._keys.check(headers)
        state = self._model(name)
        deadline = received + self._timeout(headers)
        query = request.query_params.multi_items() if request.scope["query_string"] else ()
        asked = Asked(headers, query, request.scope["headers"], call.version)
        exchange = call.protocol.begin(asked, self.sides_of(state), state)
        body = await read_body(request, self._settings, deadline)
        if "content-encoding" in headers:
            body = await decode_body(request.headers, body, self._settings.max_body_bytes, deadline)
        given = await self._read(exchange, body, deadline)
        if exchange.seconds is not None:
            deadline = self._agreed_deadline(exchange.seconds, headers, received, deadline)
        sides = self.sides_of(state)
        _check_size(sides, given.count)
        reader = _Reader(call.protocol, asked, body)
        with self._client.admit(name, given.count, given.count * sides.input.example_bytes, deadline):
            inferred = await self._infer(state, exchange, given, reader, deadline)
        result, served, exchange, decode_seconds = inferred
        if served.version != state.version:  # a reload has come in between, and its answers may be others
            exchange, _ = await self._read_again(reader, served, deadline)
        write = functools.partial(_write, self.sides_of(served), result.tensors.data, served, given.count, exchange)
        # Millions of numbers would stall the event loop.
        written = write() if result.tensors.nbytes < LARGE_BYTES else await asyncio.to_thread(write)
        timing = server_timing(result, decode_seconds, time.monotonic() - received)
        named = written.media_type is JSON and call.protocol.names_model
        return Answered(written, timing, served, named)

    async def _read(self, exchange: Exchange, body: bytes, deadline: float) -> Given:
        """Read a body; in a thread if it is large, since copying it, or its numbers, would stall the event loop."""
        most = self._settings.max_instances
        if not exchange.is_large(body):
            return exchange.read(body, most)
        reading = asyncio.to_thread(exchange.read, body, most)
        return await by_deadline(deadline, "while its body was being read", reading)

    async def _read_again(self, reader: _Reader, state: ModelState, deadline: float) -> tuple[Exchange, Given]:
        """Read a request once more, for a model that a reload has changed."""
        exchange = reader.protocol.begin(reader.asked, self.sides_of(state), state)
        return exchange, await self._read(exchange, reader.body, deadline)

    async def _infer(
        self, state: ModelState, exchange: Exchange, given: Given, reader: _Reader, deadline: float
    ) -> Inferred:
        """Decode and ask an engine; again if a reload changes the input meanwhile. Each time is accounted for.

        Raises:
            NotReady: reloads changed it again and again.
        """
        for _ in range(MOST_INPUT_CHANGES):
            began = time.monotonic()
            arrays = await self._decode(self.sides_of(state).input, given, deadline)
            decode_seconds = time.monotonic() - began
            self._accounts.decoded(state.name, decode_seconds)
            try:
                result, served = await self._client.infer(state, given.count, arrays, deadline)
            except InputChangedError:
                state = self._model(state.name)
                exchange, given = await self._read_again(reader, state, deadline)
            else:
                return Inferred(result, served, exchange, decode_seconds)
        raise NotReady(f"The input of {state.name} changed {MOST_INPUT_CHANGES} times while this request was decoded.")

    def _model(self, name: str) -> ModelState:
        """The model as it is served now.

        Raises:
            ModelNotFound: no such folder.
            NotReady: it has not been ready yet, or failed.
        """
        if self._client.known.model(name).state == "loading":
            self._client.want(name)
        return self._client.known.ready_model(name)

    def _timeout(self, headers: Mapping[str, str]) -> float:
        """Seconds that this request may take: X-Timeout-Ms, or the default."""
        stated = headers.get("x-timeout-ms")
        if stated is None:
            return self._settings.timeout_ms / 1000
        if not (milliseconds := whole_number(stated, self._settings.max_timeout_ms)):
            raise Malformed(f"X-Timeout-Ms is {stated[:40]!r}; it must be a whole number of milliseconds, at least 1.")
        return milliseconds / 1000

    def _agreed_deadline(self, seconds: float, headers: Mapping[str, str], received: float, deadline: float) -> float:
        """Return the deadline that a body states (CLOCK_MONOTONIC seconds); beside X-Timeout-Ms, the earlier one."""
        stated = received + min(seconds, self._settings.max_timeout_ms / 1000)
        return min(stated, deadline) if "x-timeout-ms" in headers else stated

    async def _decode(self, reader: Input, given: Given, deadline: float) -> Arrays:
        """Return `(count, *shape)` for each input: at once, or from the pool; the first bad item is named.

        Raises:
            DeadlineExceeded: they were not decoded by then. A thread that is decoding one goes on to its end, which is
                bounded by what the decoder lets in.
        """
        if (here := reader.at_once(given, self._client.places.taken <= 1)) is not None:
            return here
        doing = "while its pictures were being decoded"
        return await by_deadline(deadline, doing, self._decode_in_pool(reader, given))

    async def _decode_in_pool(self, reader: Input, given: Given) -> Arrays:
        loop = asyncio.get_running_loop()
        decoding = [loop.run_in_executor(self._pool, reader.decode, item) for item in given.items]
        examples: list[Any] = []
        try:
            for future in decoding:
                examples.append(await future)
        except Refusal as refusal:
            if given.count == 1:
                raise
            words = f"Picture {len(examples)} of {given.count} (counting from 0): {refusal.detail}"
            raise type(refusal)(words) from refusal
        finally:
            for future in decoding:  # those after a bad one, or all that are left when nobody waits any more
                future.cancel()
        return stacked(examples)

    def documented(self) -> Served:
        """Describe the models that are ready for `/openapi.json`."""
        found = {}
        for state in self._client.known.models.values():
            if state.state == "ready":
                reader, _, output = self.sides_of(state)
                answers = output.documented(state.signature, state.answer)
                found[state.name] = Documented(state.task, reader.documented(), answers, "labels" in state.answer)
        return Served(self._client.known.default_model, found)

    def sides_of(self, state: ModelState) -> Sides:
        """Return the sides of a model that is ready; they are made once for each of its versions."""
        known = self._sides.get(state.name)
        key = state.task, state.decoded_for, state.version
        if known is None or known[0] != key:
            make = side(INPUTS[state.input_kind].input)
            reader = make(state.input, state.signature, self._settings.max_pixels)
            known = self._sides[state.name] = (
                key,
                Sides(reader, Results(state.signature), side(TASKS[state.task].output)()),
            )
        return known[1]


def _check_size(sides: Sides, count: int) -> None:
    """Refuse a request of which no frame would hold the inputs or the outputs.

    Raises:
        TooLarge: it has too many examples for that.
    """
    for what, size in (("inputs", sides.input.example_bytes), ("answers", sides.results.example_bytes)):
        if count * size > MOST_TENSOR_BYTES and count > 1:
            most = max(1, MOST_TENSOR_BYTES // size)
            raise TooLarge(
                f"The {what} of {count} examples take {count * size:,} bytes; send at most {most} at a time."
            )


def _write(sides: Sides, data: memoryview, served: ModelState, count: int, exchange: Exchange) -> Written:
    return exchange.write(sides.results.arrays(data, count), served)
