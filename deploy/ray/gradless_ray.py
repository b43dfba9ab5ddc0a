"""Gradless on Ray Serve: the same front end, loader, proof and worker; Ray starts, watches and scales their processes.

    Ray's proxy ──► Door: the front end, which keeps every unanswered request
                      └──► Engine, any number of them: the one thread that loads, proves and answers

`serve.yaml` has the numbers, `README.md` the commands.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import psutil
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

from service.allocator import keep_freed_memory
from service.engine.aboard import Aboard
from service.engine.batcher import Request
from service.engine.client import KILLS_FOR_A_STRIKE, EngineClient, InputChangedError, Pixels
from service.engine.runner import Answer, Job
from service.engine.wire import Failure, Infer, ModelState, Reload, Result
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
from service.frontend.app import FrontEnd
from service.loader.artefact import Records
from service.loader.packages import Packages
from service.loader.repository import Catalogue, read_catalogue
from service.logs import configure_logs
from service.metrics import Metrics
from service.settings import Settings, read_settings
from service.specs import FrontEndSpec
from service.watchdog import overdue

log = structlog.get_logger()

#: A question what is served is left open for so long, and asked again after so long.
ASK_SECONDS = 1.0
_UNAVAILABLE = "Ray could start no engine that passes; `serve status` says why."
#: Then comes the pid.
_FOLDER = "gradless-ray-"


def build(args: dict[str, Any]) -> Application:
    """The application that `serve.yaml` names; its `args` are settings of Gradless.

    Raises:
        ConfigurationError: a setting, a card or a file that a card names is wrong.
    """
    settings = read_settings(args)
    catalogue = read_catalogue(settings.models, settings.default_model)
    return Door.bind(Engine.bind(settings, catalogue), settings, catalogue)


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
        cache = settings.cache.expanduser()
        folder = _own_folder()
        self._aboard = folder / "aboard"
        self._ids = itertools.count()
        self._worker = Worker(
            list(catalogue.folders.values()),
            torch.device(settings.first_device(torch.cuda.is_available())),
            settings.threads or _own_cores(),
            {},
            Aboard(self._aboard),
            Records(cache),
            Packages(cache),
            settings.optimize == "auto",
            settings.watchdog_seconds,
            Metrics("engine", folder),
            ready=lambda found: loop.call_soon_threadsafe(states.set_result, found),
            deliver=lambda answers: loop.call_soon_threadsafe(_deliver, answers),
        )
        self._worker.start()
        self._states = {state.name: state for state in await states}
        # All or nothing, whatever the cards say of `required`: an answer must not depend on which engine gives it.
        if failed := [f"{state.name}: {state.detail}" for state in self._states.values() if state.state != "ready"]:
            raise ConfigurationError(failed)

    async def states(self) -> dict[str, ModelState]:
        return self._states

    async def infer(
        self, frame: Infer, seconds: float, version: str, decoded_for: dict[str, Any]
    ) -> tuple[Result | Failure | None, ModelState | None]:
        """Run a request, within `seconds`: no two machines have the same CLOCK_MONOTONIC.

        Returns:
            The answer, and the model as it is here where it is of another version than the door knows; no answer where
            it takes another input than the pixels were decoded for.
        """
        state = self._states[frame.model]
        news = None if state.version == version else state
        if news and news.input != decoded_for:
            return None, news
        frame = msgspec.structs.replace(frame, id=next(self._ids), deadline=time.monotonic() + seconds)
        request = Request(frame.id, frame.model, frame.count, frame.deadline, alone=frame.alone)
        answer: asyncio.Future[Result | Failure] = asyncio.get_running_loop().create_future()
        request.payload = Job(frame, answer)  # who asked: only `_deliver` looks at it
        self._worker.submit(request)
        try:
            return await answer, news
        except asyncio.CancelledError:
            self._worker.cancel(frame.id)  # its client has left: what is not taken yet never will be
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
            os._exit(1)


def _own_cores() -> int:
    """The cores that Ray has set aside for this actor."""
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))


def _own_folder() -> Path:
    """A folder for metrics and for who is aboard. Ray kills processes, so each sweeps what others have left."""
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        if not psutil.pid_exists(int(left.name.removeprefix(_FOLDER).partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))


def _deliver(answers: list[Answer]) -> None:
    for request, frame in answers:
        answer: asyncio.Future[Result | Failure] = request.payload.connection
        if not answer.done():
            answer.set_result(frame)


class RayClient(EngineClient):
    """The front end's client, whose engines are Ray's replicas: Ray chooses one, and says when it has died."""

    def __init__(self, engines: DeploymentHandle, settings: Settings, metrics: Metrics) -> None:
        super().__init__(0, settings.max_queued_examples, metrics)
        self._handle = engines

    async def learn(self) -> None:
        """Ask what is served until an engine tells; until then requests are refused.

        Ray leaves a question open that came before a deployment failed, so each is asked for a while only.
        """
        while True:
            try:
                async with asyncio.timeout(ASK_SECONDS):
                    self.models |= await self._handle.states.remote()
                return
            except (TimeoutError, RayActorError):
                continue
            except DeploymentUnavailableError:
                self.models |= {name: ModelState(name, "failed", detail=_UNAVAILABLE) for name in self.models}
                await asyncio.sleep(ASK_SECONDS)

    def is_up(self, model: str) -> bool:
        """Whether an engine has served it; while none does, requests wait for the next one."""
        return self.models[model].state == "ready"

    async def infer(self, state: ModelState, pixels: Pixels, top_k: int, deadline: float) -> tuple[Result, ModelState]:
        frame = Infer(0, state.name, len(pixels), top_k, deadline, False, pixels.tobytes())
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                answer, news = await self._ask(frame, state)
        except TimeoutError:
            raise DeadlineExceeded("The deadline passed before the model could answer.") from None
        if news:
            self.models[news.name] = state = news
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
                return await self._handle.infer.remote(alone, seconds, state.version, state.input)
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
    """Where a front end has its supervisor, of whom it asks nothing but reloads."""

    def send(self, _: Reload) -> NoReturn:
        raise MethodNotAllowed("Ray replaces engines here: change what is deployed, and run serve deploy.")


class RayFrontEnd(FrontEnd):
    """The front end's application, with Ray's replicas for engines and Ray for a supervisor."""

    client: RayClient

    def __init__(self, engines: DeploymentHandle, settings: Settings, catalogue: Catalogue, metrics: Path) -> None:
        required = dict.fromkeys(catalogue.folders, True)
        super().__init__(FrontEndSpec(0, 0, catalogue.default_model, required, metrics, settings))
        loading, self.client = self.client.models, RayClient(engines, settings, self.metrics)
        self.client.models, self.client.default_model = loading, catalogue.default_model
        self._control = NoSupervisor()

    def application(self) -> ASGIApp:
        """The front end's, less X-Request-Id: Ray's proxy gives every request one, and every response the same."""
        app = self._apps(apart=False)[0]

        async def without_id(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_without_id(message: Message) -> None:
                if message["type"] == "http.response.start":
                    del MutableHeaders(raw=message["headers"])["X-Request-Id"]
                await send(message)

            await app(scope, receive, send_without_id)

        return without_id


@serve.deployment
@serve.ingress()
class Door:
    """The front end: reads, decodes, asks an engine, asks another one when that dies, writes the answer."""

    async def __init__(self, engines: DeploymentHandle, settings: Settings, catalogue: Catalogue) -> None:
        configure_logs(settings)
        torch.set_num_threads(1)
        self._front_end = RayFrontEnd(engines, settings, catalogue, _own_folder())
        self._learning = asyncio.get_running_loop().create_task(self._front_end.client.learn())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._front_end.application()
