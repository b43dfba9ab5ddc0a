"""Gradless on Ray Serve: the same front end, loader, proof and worker; Ray starts, watches and scales their processes.

    Ray's proxy ──► Door: the front end, which keeps every unanswered request
                      └──► Engine, any number of them: the one thread that loads, proves and answers

`serve.yaml` has the numbers, `README.md` the commands.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import msgspec
import ray
import structlog
import torch
from ray import serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.engine.batcher import Request
from service.engine.job import deliver, job_of
from service.engine.worker import Worker
from service.errors import (
    BY_NAME,
    ConfigurationError,
    DeadlineExceeded,
    InputCrashesModel,
    MethodNotAllowed,
    NotReady,
    NotReplayed,
)
from service.frontend.applications import FrontEnd
from service.frontend.engines.blame import KILLS_FOR_A_STRIKE
from service.frontend.engines.client import Client, InputChangedError
from service.frontend.engines.known import Known
from service.frontend.engines.places import Outlook, places_of
from service.host.allocator import keep_freed_memory
from service.host.metric_memory import make_metric_memory
from service.loader.repository import Catalogue, read_catalogue
from service.logs import configure_logs, end_process
from service.metrics import Metrics
from service.settings import Settings, read_settings
from service.supervisor.watchdog import overdue
from service.tasks.inputs.input import Arrays
from service.wire.aboard import Aboard, make_aboard_file
from service.wire.messages import Failure, Infer, ModelState, Ready, Reload, Result, Tensors
from service.wire.specs import FrontEndSpec, WorkerSpec

log = structlog.get_logger()

#: A question what is served is left open for so long, and asked again after so long.
ASK_SECONDS = 1.0
_UNAVAILABLE = "Ray could start no engine that passes; `serve status` says why."


def build(args: dict[str, Any]) -> Application:
    """The application that `serve.yaml` names; its `args` are settings of Gradless.

    Raises:
        ConfigurationError: a setting, a card or a file that a card names is wrong.
    """
    settings = read_settings(args)
    catalogue = read_catalogue(settings.models, settings.default_model)
    return Door.bind(Engine.bind(settings, catalogue), settings, catalogue)


class Asking:
    """One request of a door, which awaits `answered`. Made and answered in the event loop's thread."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[Result | Failure] = asyncio.get_running_loop().create_future()

    def answer(self, *frames: Result | Failure) -> None:
        if not self.answered.done():
            self.answered.set_result(frames[0])


@serve.deployment
class Engine:
    """One engine in one actor. It answers when every model has passed the proof on the thread that answers, or never.

    The worker ends the process when it catches a model (a graph, a broken seal): Ray then starts another one, and the
    door sends what was not answered to the others.
    """

    async def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        configure_logs(settings)
        keep_freed_memory()
        loop = asyncio.get_running_loop()
        states: asyncio.Future[list[ModelState]] = loop.create_future()
        self._aboard = make_aboard_file()
        self._ids = itertools.count()
        metrics = Metrics("engine", make_metric_memory())
        device = settings.first_device(torch.cuda.is_available())
        self._worker = Worker(
            WorkerSpec(device, settings.threads or _own_cores(), {}, catalogue, settings),
            Aboard(self._aboard),
            metrics,
            ready=lambda found: loop.call_soon_threadsafe(_settle, states, found),
            deliver=lambda answers: loop.call_soon_threadsafe(deliver, answers),
        )
        self._worker.start()
        self._states = {state.name: state for state in await states}
        # All or nothing, whatever the cards say of `required`: an answer must not depend on which engine gives it.
        if failed := [f"{state.name}: {state.detail}" for state in self._states.values() if state.state != "ready"]:
            raise ConfigurationError(failed)

    async def states(self) -> dict[str, ModelState]:
        return self._states

    async def infer(
        self, frame: Infer, seconds: float, version: str, decoded_for: str
    ) -> tuple[Result | Failure | None, ModelState | None]:
        """Run a request, within `seconds`: no two machines have the same CLOCK_MONOTONIC.

        Returns:
            The answer, and the model as it is here where it is of another version than the door knows; no answer where
            it takes other inputs than these were made for.
        """
        state = self._states[frame.model]
        news = None if state.version == version else state
        if news and news.decoded_for != decoded_for:
            return None, news
        frame = msgspec.structs.replace(frame, id=next(self._ids), deadline=time.monotonic() + seconds)
        asker = Asking()
        job = job_of(frame, asker, state.signature.inputs)
        request = Request(frame.id, frame.model, frame.count, frame.deadline, alone=frame.alone, payload=job)
        self._worker.inbox.submit(request)
        try:
            return await asker.answered, news
        except asyncio.CancelledError:
            self._worker.inbox.cancel(frame.id)  # its client has left: what is not taken yet never will be
            raise

    async def check_health(self) -> None:
        """Ray asks again and again. A forward that does not end is ended with its process.

        To raise would leave it in use for three more checks, and then wait for the very requests that hang.

        Raises:
            RuntimeError: the worker is dead.
        """
        if not self._worker.is_alive():
            raise RuntimeError("the worker is dead")
        if why := overdue(self._aboard, time.monotonic(), silence_seconds=float("inf")):
            log.error("engine ended by the watchdog", why=why)
            end_process(1)


def _own_cores() -> int:
    """The cores that Ray has set aside for this actor."""
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))


def _settle(states: asyncio.Future[list[ModelState]], found: list[ModelState]) -> None:
    """End the wait for the models once none of them is loading any more."""
    if not states.done() and Ready("", found).complete:
        states.set_result(found)


class RayClient(Client):
    """The front end's client, whose engines are Ray's replicas: Ray chooses one, and says when it has died."""

    def __init__(self, engines: DeploymentHandle, known: Known, settings: Settings, metrics: Metrics) -> None:
        self.known = known
        self.places = places_of(settings)
        self._handle = engines
        self._metrics = metrics

    async def learn(self) -> None:
        """Ask what is served until an engine tells; until then requests are refused.

        Ray leaves a question open that came before a deployment failed, so each is asked for a while only.
        """
        while True:
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    self.known.models |= await self._handle.states.remote()
                return
            except (TimeoutError, RayActorError):
                continue
            except DeploymentUnavailableError:
                failed = {name: ModelState(name, "failed", detail=_UNAVAILABLE) for name in self.known.models}
                self.known.models |= failed
                await asyncio.sleep(ASK_SECONDS)

    def is_up(self, model: str) -> bool:
        """Tell whether an engine has served it; while none does, requests wait for the next one."""
        return self.known.models[model].state == "ready"

    def want(self, model: str) -> None:
        """Tell nobody: an engine of Ray's answers when every model is ready, or never."""

    def admit(self, model: str, count: int, nbytes: int, deadline: float) -> AbstractContextManager[None]:
        """Hold places; what Ray's engines have to do is not known here."""
        return self.places.hold(count, nbytes, Outlook(), deadline)

    async def infer(self, state: ModelState, count: int, arrays: Arrays, deadline: float) -> tuple[Result, ModelState]:
        frame = Infer(0, state.name, count, deadline, False, Tensors.of(*[array.data for array in arrays]))
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                answer, news = await self._ask(frame, state)
        except TimeoutError:
            raise DeadlineExceeded("The deadline passed before the model could answer.") from None
        if news:
            self.known.models[news.name] = state = news
        if answer is None:
            raise InputChangedError
        if isinstance(answer, Failure):
            raise BY_NAME[answer.error](answer.detail)
        return answer, state

    async def _ask(self, frame: Infer, state: ModelState) -> tuple[Result | Failure | None, ModelState | None]:
        """Ask an engine, and another one when it dies: a frozen model is a pure function, so asking twice is safe.

        Ray does not tell who was in the forward, nor what an engine died of. So a first death is nobody's fault (a node
        has gone); after a second one the request goes alone, and it takes the blame for the fifth.
        """
        for deaths in range(KILLS_FOR_A_STRIKE):
            alone = msgspec.structs.replace(frame, alone=deaths > 1)
            try:
                seconds = frame.deadline - time.monotonic()
                return await self._handle.infer.remote(alone, seconds, state.version, state.decoded_for)
            except RayActorError as error:
                log.warning("replaying", model=state.name, deaths=deaths + 1, error=type(error).__name__)
                if state.report and "repeatable" in state.report.waivers:
                    words = "The model's process ended, and its card says that it may not run a request twice."
                    raise NotReplayed(words) from None
                self._metrics.replayed.labels(state.name).inc()
            except DeploymentUnavailableError:
                raise NotReady(_UNAVAILABLE) from None
        raise InputCrashesModel(f"The model's process ended {KILLS_FOR_A_STRIKE} times over this input.")


class NoSupervisor:
    """What a front end has here for its way to the supervisor, of which it asks nothing but reloads."""

    def send(self, _: Reload, /) -> NoReturn:
        raise MethodNotAllowed("Ray replaces engines here: change what is deployed, and run serve deploy.")


def without_id(app: ASGIApp) -> ASGIApp:
    """Return the application less X-Request-Id: Ray's proxy gives every request one, and every response the same."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(raw=message["headers"])["X-Request-Id"]
            await send(message)

        await app(scope, receive, send_without_id)

    return answer


@serve.deployment
@serve.ingress()
class Door:
    """The front end: reads, decodes, asks an engine, asks another one when that dies, writes the answer."""

    async def __init__(self, engines: DeploymentHandle, settings: Settings, catalogue: Catalogue) -> None:
        configure_logs(settings)
        torch.set_num_threads(1)
        required = dict.fromkeys(catalogue.folders, True)
        spec = FrontEndSpec(0, 0, catalogue.default_model, required, make_metric_memory(), settings)
        metrics = Metrics("frontend-0", spec.metrics)
        client = RayClient(engines, Known.before_any_engine(spec), settings, metrics)
        self._front_end = FrontEnd(spec, metrics, client, NoSupervisor())
        self._learning = asyncio.get_running_loop().create_task(client.learn())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        (app,) = self._front_end.applications(apart=False)
        return without_id(app)
