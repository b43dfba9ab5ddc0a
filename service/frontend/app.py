"""The front-end process: its life from the first connection to the last answer."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog
import torch

from service.errors import Refusal, TooManyConnections
from service.frontend.applications import FrontEnd
from service.frontend.engines.client import EngineClient
from service.frontend.engines.known import Known
from service.frontend.engines.places import places_of
from service.frontend.http_connection import Limits
from service.frontend.limits import allowed_connections
from service.frontend.server import Server
from service.host.descriptors import detach_standard_error
from service.host.log_writer import STDERR
from service.metrics import OWN_PROTOCOL, Metrics
from service.wire.child import ControlConnection, begin_child, run_loop
from service.wire.messages import (
    AnyFrame,
    Drain,
    EngineDied,
    Generation,
    Listening,
    Optimized,
    Reload,
    Reloading,
    Retire,
    Waiting,
)
from service.wire.specs import FrontEndSpec

log = structlog.get_logger()


def main(control: socket.socket, listeners: Sequence[socket.socket], spec: FrontEndSpec) -> None:
    """Entry point of the process; `control` is the control socket, and lifeline, from the supervisor.

    The first listener is for clients; a second one, if there is one, for operations.
    """
    begin_child(f"front end {spec.number}", spec.settings)
    STDERR.descriptor = detach_standard_error()  # a client chooses the pictures that decoders complain of
    torch.set_num_threads(1)
    run_loop(lambda: FrontEndProcess(spec).serve(control, listeners))


class FrontEndProcess:
    """The live state of the process. It is the front end's way to the supervisor."""

    def __init__(self, spec: FrontEndSpec) -> None:
        self._spec = spec
        self._settings = spec.settings
        self._tasks: set[asyncio.Task[None]] = set()
        self._metrics = Metrics(f"frontend-{spec.number}", spec.metrics)
        self._known = Known.before_any_engine(spec)
        self._client = EngineClient(spec.start, self._known, places_of(self._settings), self._metrics)
        self._front_end = FrontEnd(spec, self._metrics, self._client, self)

    async def serve(self, control: socket.socket, listeners: Sequence[socket.socket]) -> None:
        limits = Limits(
            self._settings.header_timeout_seconds, allowed_connections(self._settings.max_connections), self._count
        )
        apps = self._front_end.applications(apart=len(listeners) > 1)
        self._servers = [Server(app, self._settings, limits, self._listens) for app in apps]
        self._control = await ControlConnection.open(control, self._control_frame)
        gc.collect()
        gc.freeze()  # a full collection over torch's objects stalls every request for 200 ms
        serving = zip(self._servers, listeners, strict=True)
        await asyncio.gather(*(server.serve(sockets=[listener]) for server, listener in serving))
        self._client.fleet.close()
        self._front_end.accounts.settle()
        log.info("front end ends", number=self._spec.number)

    def send(self, frame: Reload, /) -> None:
        self._control.send(frame)

    def _listens(self) -> None:
        """One more of the servers accepts connections."""
        if all(server.started for server in self._servers):
            self._control.send(Listening())

    def _count(self, refusal: Refusal) -> None:
        """A refusal before there is a request, and so without a model; that of a connection is not one."""
        self._metrics.rejected.labels("unknown", refusal.name).inc()
        if not isinstance(refusal, TooManyConnections):
            self._metrics.requests.labels("unknown", OWN_PROTOCOL, str(refusal.status)).inc()

    def _control_frame(self, frame: AnyFrame) -> None:
        if isinstance(frame, Generation):
            self._spawn(self._connect(frame))
        elif isinstance(frame, EngineDied):
            self._client.fleet.failed(frame)
        elif isinstance(frame, Retire):
            self._client.fleet.retire(frame)
        elif isinstance(frame, Waiting):
            self._known.waiting[frame.device] = frame
        elif isinstance(frame, Optimized):
            self._known.verdicts[frame.model, frame.version] = frame.verdict
        elif isinstance(frame, Reloading):
            self._known.reloading = frame
        elif isinstance(frame, Drain):
            self._spawn(self._drain(frame))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, generation: Generation) -> None:
        try:
            await self._client.fleet.connect(generation)
        except OSError as error:  # it died in between: the supervisor says so, and sends another
            log.warning("engine not reached", device=generation.device, error=str(error))

    async def _drain(self, drain: Drain) -> None:
        """Answer on until balancers have noticed, then close the door and finish what is inside."""
        self._front_end.draining = True
        await asyncio.sleep(drain.delay_seconds)
        asyncio.get_running_loop().call_later(drain.limit_seconds, self._client.give_up)
        for server in self._servers:
            server.drain(drain.limit_seconds)
