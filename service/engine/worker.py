"""The one thread that runs models: it loads and freezes them, enters `inference_mode`, and serves.

One thread, because each thread that runs multi-threaded torch operations gets an OpenMP team of its own.
Loading comes before the mode, because weights then stay normal tensors whose `_version` still counts
in-place changes. One mode from warm-up on, because what is built in another mode than the one that serves is
built again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import numpy as np
import structlog
import torch

from service.engine.aboard import Aboard
from service.engine.batcher import Batch, Batcher, Part, Request
from service.engine.guard import CaughtError, Guard, SealWatch
from service.engine.model import ServedModel
from service.engine.wire import Failure, Infer, ModelState, Result, Tuning
from service.errors import ConfigurationError, DeadlineExceeded, ModelFailed, ModelOutputInvalid, Refusal
from service.loader.artefact import Reports
from service.loader.load import load
from service.loader.report import Report
from service.loader.repository import ModelFolder
from service.metrics import Metrics
from service.specs import ExitCode
from service.tasks.classification import best_classes

if TYPE_CHECKING:
    from service.engine.process import FrontEndConnection

log = structlog.get_logger()

Answer = tuple[Request, Result | Failure]
Rows = np.ndarray[Any, Any]


@dataclass(slots=True)
class Job:
    """What a request carries through the batcher: its frame, who asked, and its answer as it grows."""

    frame: Infer
    connection: FrontEndConnection
    probabilities: list[bytes] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    done: int = 0
    queue_seconds: float = 0.0
    forward_seconds: float = 0.0


class Worker(threading.Thread):
    """Runs until its process ends.

    Args:
        folders: the models to load, in order.
        device: where they run.
        threads: intra-op threads of this thread.
        tunings: by version, what an earlier engine of this server measured; it saves measuring again.
        aboard: where the ids in the current forward are written.
        reports: where passed proofs are kept.
        ready: called once, from this thread, with every model's state.
        deliver: called once a batch, from this thread, with the answers that are complete.
    """

    def __init__(
        self,
        folders: Sequence[ModelFolder],
        device: torch.device,
        threads: int,
        tunings: dict[str, Tuning],
        aboard: Aboard,
        reports: Reports,
        metrics: Metrics,
        ready: Callable[[list[ModelState]], object],
        deliver: Callable[[list[Answer]], object],
    ) -> None:
        super().__init__(name="worker", daemon=True)
        self._folders = folders
        self._device = device
        self._threads = threads
        self._tunings = tunings
        self._aboard = aboard
        self._reports = reports
        self._metrics = metrics
        self._ready = ready
        self._deliver = deliver
        self._wake = threading.Condition()
        self._models: dict[str, ServedModel] = {}
        self._guards: dict[str, Guard] = {}
        self._cold: list[tuple[ServedModel, int]] = []
        self._batcher = Batcher({})

    def submit(self, request: Request) -> None:
        """Queue a request; from the event loop's thread.

        Raises:
            KeyError: the model is not served here.
        """
        with self._wake:
            self._batcher.add(request, time.monotonic())
            self._wake.notify()

    def cancel(self, request_id: int) -> None:
        with self._wake:
            self._batcher.cancel(request_id)

    def run(self) -> None:
        """Never returns. A process whose worker is dead would take requests and answer none: it ends with it."""
        try:
            self._serve()
        except BaseException:
            log.exception("worker died")
            os._exit(1)

    def _serve(self) -> None:
        torch.set_num_threads(self._threads)
        states = [self._load(folder) for folder in self._folders]
        with torch.inference_mode():
            states = [self._prepare(state) for state in states]
            with self._wake:
                self._batcher = Batcher({name: model.cap for name, model in self._models.items()})
            self._seals = SealWatch(self._guards.values())
            self._ready(states)
            while True:
                self._step()

    def _load(self, folder: ModelFolder) -> ModelState:
        state = ModelState(folder.name, "loading", required=folder.card.required)
        try:
            model = ServedModel(load(folder), folder.card, self._device)
            model.tune(self._tunings.get(model.loaded.version), self._threads)
        except ConfigurationError as error:
            return self._failed(state, str(error))
        except Exception as error:
            log.exception("loading failed", model=folder.name)
            return self._failed(state, f"loading: {type(error).__name__}: {error}")
        self._models[folder.name] = model
        return model.state(state)

    def _prepare(self, state: ModelState) -> ModelState:
        """Prove a loaded model through the function that answers requests."""
        model = self._models.get(state.name)
        if model is None:
            return state
        try:
            report = self._prove(model)
        except Exception as error:
            log.exception("proof failed", model=state.name)
            del self._models[state.name]
            return self._failed(state, f"the proof could not be run: {type(error).__name__}: {error}")
        self._metrics.self_check_passed.labels(state.name).set(report.passed)
        if not report.passed:
            del self._models[state.name]
            return model.state(self._failed(state, f"the proof failed: {report.refusal}"), report)
        self._guards[state.name] = model.guard()
        self._metrics.seal_intact.labels(state.name).set(1)
        for rule in report.waivers:
            self._metrics.rule_waived.labels(state.name, rule).set(1)
        for kind, size in model.loaded.memory.items():
            self._metrics.model_memory.labels(state.name, kind).set(size)
        self._metrics.model_info.labels(state.name, model.loaded.version, "classification", str(self._device)).set(1)
        return model.state(ModelState(state.name, "ready", required=state.required), report)

    def _prove(self, model: ServedModel) -> Report:
        """The whole proof; where it was passed before and kept, at batch 1 and at the cap only.

        It is the warm-up too: no request pays for a primitive or a kernel made on first use. The sizes that a re-check
        leaves out are warmed when nobody waits.
        """
        key = model.artefact_key()
        kept = self._reports.read(key)
        if kept is None:
            report = model.check(model.sizes)
            if report.passed:
                self._reports.write(key, report)
            return report
        self._cold += [(model, size) for size in model.sizes[1:-1]]
        return msgspec.structs.replace(model.check(sorted({1, model.cap})), full=kept.full or kept.figures)

    def _failed(self, state: ModelState, detail: str) -> ModelState:
        log.error("model failed", model=state.name, detail=detail)
        return ModelState(state.name, "failed", required=state.required, detail=detail)

    def _step(self) -> None:
        """Wait for work, drop what nobody waits for, run one batch, hand the answers over; then a look at the seals."""
        if self._wait_for_work():
            self._answer()
            self._seals.worked()
            self._check_seal()
        elif self._cold:
            model, size = self._cold.pop()
            model.warm_up([size])
        else:
            self._check_seal()

    def _wait_for_work(self) -> bool:
        """Whether requests wait; False when there is something to do for who has time."""
        with self._wake:
            while not len(self._batcher):
                spare = 0.0 if self._cold else self._seals.due_in()
                if spare == 0:
                    return False
                self._wake.wait(spare)
            return True

    def _check_seal(self) -> None:
        if self._seals.due_in() == 0:
            try:
                self._seals.step()
            except CaughtError as caught:
                self._end(caught)

    def _end(self, caught: CaughtError) -> NoReturn:
        """End the process: a model that was caught answers nothing more. Its requests go to the next engine."""
        log.error("model caught", model=caught.model, cause=caught.code.cause, detail=str(caught))
        if caught.code is ExitCode.VIOLATION:
            self._metrics.grad_graph_violations.labels(caught.model).inc()
        else:
            self._metrics.seal_intact.labels(caught.model).set(0)
        os._exit(caught.code)

    def _answer(self) -> None:
        batch, dropped = self._next_batch()
        late = DeadlineExceeded.name
        answers: list[Answer] = [(r, Failure(r.id, late, "The deadline passed in the queue.")) for r in dropped]
        if batch:
            answers += self._run(batch)
        self._deliver(answers)

    def _next_batch(self) -> tuple[Batch | None, list[Request]]:
        with self._wake:
            dropped = self._batcher.drop_gone(time.monotonic())
            batch = self._batcher.take()
            for name in self._models:
                self._metrics.queue_depth.labels(name).set(self._batcher.depth(name))
            return batch, dropped

    def _run(self, batch: Batch) -> list[Answer]:
        """Answers of every request that this batch completes; a failure answers all that were aboard."""
        self._aboard.board([part.request.id for part in batch.parts])
        try:
            return self._forward(batch)
        except CaughtError as caught:
            self._end(caught)
        except Refusal as refusal:
            return self._fail(batch.parts, refusal.name, refusal.detail)
        except BaseException as error:  # a model may even call sys.exit
            log.exception("forward failed", model=batch.model, examples=batch.size)
            return self._fail(batch.parts, ModelFailed.name, f"The model's forward raised {type(error).__name__}.")
        finally:
            self._aboard.clear()

    def _forward(self, batch: Batch) -> list[Answer]:
        model = self._models[batch.model]
        began = time.monotonic()
        pixels = model.collate(part_pixels(part.request, part.start, part.stop) for part in batch.parts)
        collated = time.monotonic()
        logits = model.run_batch(pixels)
        forwarded = time.monotonic()
        self._guards[batch.model].look(logits)
        top_k = max(part.request.payload.frame.top_k for part in batch.parts)
        probabilities, ids = (rows.numpy() for rows in best_classes(logits, top_k))
        finished = time.monotonic()

        stage = self._metrics.stage_duration
        stage.labels(batch.model, "collate").observe(collated - began)
        stage.labels(batch.model, "forward").observe(forwarded - collated)
        stage.labels(batch.model, "postprocess").observe(finished - forwarded)
        self._metrics.batch_size.labels(batch.model).observe(batch.size)

        answers: list[Answer] = []
        row = 0
        for part in batch.parts:
            rows = slice(row, row + part.stop - part.start)
            row = rows.stop
            job: Job = part.request.payload
            job.queue_seconds = began - part.request.added
            job.forward_seconds += finished - collated
            answers += self._give(part, probabilities[rows], ids[rows])
        return answers

    def _give(self, part: Part, probabilities: Rows, ids: Rows) -> list[Answer]:
        """Add a part's rows to its request's answer; the answer, if that completes it."""
        job: Job = part.request.payload
        if not np.isfinite(probabilities).all():  # one NaN or infinite score makes every probability NaN
            return self._fail([part], ModelOutputInvalid.name, "The model's scores for this input are no numbers.")
        k = min(job.frame.top_k, probabilities.shape[1])
        job.probabilities.append(probabilities[:, :k].tobytes())
        job.ids.append(ids[:, :k].tobytes())
        job.done += part.stop - part.start
        if job.done < part.request.count:
            return []
        self._metrics.stage_duration.labels(part.request.model, "queue").observe(job.queue_seconds)
        return [(part.request, _result(job, k))]

    def _fail(self, parts: Sequence[Part], error: str, detail: str) -> list[Answer]:
        with self._wake:
            for part in parts:
                self._batcher.cancel(part.request.id)
        return [(part.request, Failure(part.request.id, error, detail)) for part in parts]


def part_pixels(request: Request, start: int, stop: int) -> memoryview:
    """The bytes of examples `start` to `stop` of a request, without a copy."""
    frame: Infer = request.payload.frame
    size = len(frame.pixels) // frame.count
    return memoryview(frame.pixels)[start * size : stop * size]


def _result(job: Job, k: int) -> Result:
    return Result(
        id=job.frame.id,
        k=k,
        probabilities=b"".join(job.probabilities),
        ids=b"".join(job.ids),
        queue_seconds=job.queue_seconds,
        forward_seconds=job.forward_seconds,
    )
