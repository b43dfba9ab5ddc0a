"""The engine process: sockets in, sockets out. Its event loop takes frames in; its worker runs models and answers."""

from __future__ import annotations

import asyncio
import gc
import socket
import time

import structlog
import torch

from service.engine.address import Address
from service.engine.answers import Answers
from service.engine.batcher import Request
from service.engine.device_memory import SECONDS as DEVICE_MEMORY_SECONDS
from service.engine.device_memory import sample_device_memory
from service.engine.job import deliver, job_of
from service.engine.worker import Worker
from service.errors import NotReady, Unprocessable
from service.host.allocator import keep_freed_memory
from service.metrics import Metrics
from service.signature import TensorSpec
from service.wire.aboard import Aboard
from service.wire.child import ControlConnection, begin_child, prefer_to_be_killed, run_loop, use_temporary
from service.wire.framing import FrameProtocol
from service.wire.messages import AnyFrame, Cancel, Drain, Failure, Infer, ModelState, Ready, Result, Wanted
from service.wire.specs import EngineSpec

log = structlog.get_logger()

PULSE_SECONDS = 0.25


def main(control: socket.socket, spec: EngineSpec) -> None:
    """Entry point of the process; `control` is the control socket, and lifeline, from the supervisor."""
    begin_child(f"engine {spec.device}", spec.settings)
    use_temporary(spec.temporary)
    prefer_to_be_killed(500)  # its requests are replayed; a front end's connections would break
    keep_freed_memory()
    run_loop(lambda: EngineProcess(spec).serve(control))


class FrontEndConnection(FrameProtocol):
    """One front end. Its requests are known by their ids, which no two front ends share."""

    def __init__(self, engine: EngineProcess) -> None:
        super().__init__()
        self._engine = engine
        self.waiting: set[int] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._answers = Answers(self.transport)
        self._engine.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._answers.close()
        self._engine.lost(self)

    def answer(self, *frames: Result | Failure) -> None:
        """Send answers, from any thread, but for those to requests that have had one already."""
        first = []
        for frame in frames:
            if frame.id in self.waiting:
                self.waiting.discard(frame.id)
                first.append(frame)
        if first:
            self._answers.send(first)

    def frame_received(self, frame: AnyFrame) -> None:
        if isinstance(frame, Infer):
            self._engine.accept(frame, self)
        elif isinstance(frame, Cancel):
            self._engine.worker.inbox.cancel(frame.id)
        elif isinstance(frame, Wanted):
            self._engine.worker.inbox.want(frame.model)


class EngineProcess:
    """The live state of the process: its worker and the front ends connected to it."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self.connections: set[FrontEndConnection] = set()
        self._inputs: dict[str, tuple[TensorSpec, ...]] = {}
        self._drained = asyncio.Event()
        self._draining = False
        self._aboard = Aboard(spec.aboard)
        self.metrics = Metrics(spec.role, spec.metrics)

    async def serve(self, control_socket: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._control = await ControlConnection.open(control_socket, self._control_frame)
        self.worker = Worker(
            self._spec,
            self._aboard,
            self.metrics,
            ready=lambda models: loop.call_soon_threadsafe(self._ready, models),
            deliver=deliver,
        )
        address = Address(self._spec.socket, self._spec.temporary, lambda: FrontEndConnection(self))
        await address.open()
        self._pulse()
        kept = loop.create_task(address.keep())
        if torch.device(self._spec.device).type == "cuda":
            self._sample_device_memory()
        self.worker.start()
        await self._drained.wait()
        kept.cancel()
        address.close()
        log.info("engine ends", device=self._spec.device, generation=self._spec.number)

    def _ready(self, models: list[ModelState]) -> None:
        """Take requests for the models that are ready, and tell the supervisor, which tells front ends."""
        for model in models:
            if model.state == "ready":
                self._inputs[model.name] = model.signature.inputs
        ready = Ready(self._spec.device, models)
        if ready.complete:
            gc.collect()
            gc.freeze()  # a full collection over torch's objects stalls every thread for 200 ms
        self._control.send(ready)

    def _pulse(self) -> None:
        """Say again and again that this loop runs, for the watchdog."""
        self._aboard.pulse(time.monotonic())
        asyncio.get_running_loop().call_later(PULSE_SECONDS, self._pulse)

    def _sample_device_memory(self) -> None:
        sample_device_memory(self.metrics.device_memory, torch.device(self._spec.device))
        asyncio.get_running_loop().call_later(DEVICE_MEMORY_SECONDS, self._sample_device_memory)

    def accept(self, frame: Infer, connection: FrontEndConnection) -> None:
        """Queue a request, or say at once why not."""
        connection.waiting.add(frame.id)
        try:
            job = job_of(frame, connection, self._inputs[frame.model])
        except KeyError:
            connection.answer(Failure(frame.id, NotReady.name, f"{frame.model} is not ready in this engine."))
        except Unprocessable as refusal:
            connection.answer(Failure(frame.id, refusal.name, refusal.detail))
        else:
            request = Request(frame.id, frame.model, frame.count, frame.deadline, alone=frame.alone, payload=job)
            self.worker.inbox.submit(request)

    def lost(self, connection: FrontEndConnection) -> None:
        """A front end has gone: nobody waits for its requests."""
        self.connections.discard(connection)
        for request_id in list(connection.waiting):  # the worker may take one away
            self.worker.inbox.cancel(request_id)
        self._end_if_drained()

    def _control_frame(self, frame: AnyFrame) -> None:
        if isinstance(frame, Drain):
            self._draining = True
            asyncio.get_running_loop().call_later(frame.limit_seconds, self._drained.set)
            self._end_if_drained()

    def _end_if_drained(self) -> None:
        """Front ends leave when they need nothing more, so the last to leave ends the engine."""
        if self._draining and not self.connections:
            self._drained.set()
