"""The one thread that runs models: it enters `inference_mode`, brings the models up, and serves each from then on.

One thread, because each thread that runs multi-threaded torch operations gets an OpenMP team of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec
import structlog
import torch

from service.engine.batcher import Batcher
from service.engine.bring_up import BringUp, PutOffError
from service.engine.bring_up_order import BringUpOrder
from service.engine.inbox import Inbox
from service.engine.job import Delivery
from service.engine.serving import Serving
from service.loader.repository import ModelFolder
from service.logs import end_process
from service.metrics import Metrics
from service.wire.aboard import Aboard
from service.wire.messages import ModelState
from service.wire.specs import WorkerSpec

log = structlog.get_logger()


class Worker(threading.Thread):
    """Runs until its process ends.

    Args:
        aboard: where the ids in the current forward are written, and until when it must be over.
        ready: called from this thread with every model's state, at the start and when one has changed.
        deliver: called once a batch, from this thread, with the answers that are complete.

    Attributes:
        inbox: takes requests, from the event loop's thread.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        aboard: Aboard,
        metrics: Metrics,
        ready: Callable[[list[ModelState]], object],
        deliver: Callable[[list[Delivery]], object],
    ) -> None:
        super().__init__(name="worker", daemon=True)
        self._models = spec.models
        self._start_limit_seconds = spec.settings.start_limit_seconds
        self._aboard = aboard
        self._ready = ready
        self._states = {name: _loading(folder) for name, folder in spec.models.folders.items()}
        self._bring_up = BringUp(spec, metrics)
        self._order = BringUpOrder(spec.models.folders, spec.models.default_model)
        batcher = Batcher({})
        self.inbox = Inbox(batcher, self._order)
        self._serving = Serving(batcher, self.inbox, aboard, spec.settings.watchdog_seconds, metrics, deliver)

    def run(self) -> None:
        """Never returns. A process whose worker is dead would take requests and answer none: it ends with it."""
        try:
            self._run()
        except BaseException:
            log.exception("worker died")
            end_process(1)

    def _run(self) -> None:
        device = self._bring_up.device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # what names no device goes to the first one, and takes memory there
        for name, why in self._models.broken.items():
            self._states[name] = self._bring_up.failed(ModelState(name, "failed", required=False), why)
        with torch.inference_mode():
            self._tell()
            while model := self._order.next():
                self._bring_up_one(model)
            while True:
                self._serving.step()

    def _tell(self) -> None:
        self._ready(list(self._states.values()))

    def _bring_up_one(self, name: str) -> None:
        """Bring a model up, or begin with it: where others are waited for, it is put off."""
        try:
            with self._aboard.silent():
                brought = self._bring_up.bring_up(self._models.folders[name], lambda: self._between(name))
        except PutOffError:
            return
        finally:
            self._aboard.due(0.0)
        self._order.done(name)
        state = brought.state
        if brought.proven:
            state = msgspec.structs.replace(state, example_seconds=self._serving.open(name, brought.proven))
        self._states[name] = state
        self._tell()

    def _between(self, name: str) -> None:
        """Answer what waits for models that are ready, while this one is brought up; the proof takes turns with them.

        Raises:
            PutOffError: requests wait for other models than this one.
        """
        self._serving.answer_a_turn()
        if self._order.gives_way(name):
            raise PutOffError
        self._aboard.due(time.monotonic() + self._start_limit_seconds)


def _loading(folder: ModelFolder) -> ModelState:
    return ModelState(folder.name, "loading", required=folder.card.required, task=folder.card.task)
