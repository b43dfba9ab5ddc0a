"""The one thread that runs models: it loads and freezes them, enters `inference_mode`, and serves.

One thread, because each thread that runs multi-threaded torch operations gets an OpenMP team of its own.
Loading comes before the mode, because weights then stay normal tensors whose `_version` still counts
in-place changes. One mode from warm-up on, because what is built in another mode than the one that serves is
built again.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import msgspec
import structlog
import torch

from service.engine.aboard import Aboard
from service.engine.batcher import Batch, Batcher, Request
from service.engine.caps import Caps
from service.engine.guard import CaughtError, Guard, SealWatch
from service.engine.model import ServedModel, tuning_key
from service.engine.pace import Pace
from service.engine.runner import Answer, Flight, Runner
from service.engine.wire import Failure, ModelState, Result
from service.errors import ConfigurationError, DeadlineExceeded
from service.loader.artefact import Records
from service.loader.load import load
from service.loader.packages import Packages, ruled_out
from service.loader.report import PENDING, Record, Report, Tuning, Verdict
from service.loader.repository import ModelFolder
from service.metrics import Metrics
from service.specs import ExitCode

log = structlog.get_logger()


class Worker(threading.Thread):
    """Runs until its process ends.

    Args:
        folders: the models to load, in order.
        device: where they run.
        threads: intra-op threads of this thread.
        tunings: by version, what an earlier engine of this server measured; it saves measuring again.
        aboard: where the ids in the current forward are written.
        records: where what was measured and proven is kept.
        packages: where compiled packages are.
        optimize: whether packages may answer; `eager` on a model's card says no for that one.
        watchdog_seconds: the shortest time after which a forward counts as one that does not end.
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
        records: Records,
        packages: Packages,
        optimize: bool,
        watchdog_seconds: float,
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
        self._records = records
        self._packages = packages
        self._optimize = optimize
        self._watchdog_seconds = watchdog_seconds
        self._metrics = metrics
        self._ready = ready
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[tuple[Request, float] | int] = queue.SimpleQueue()
        self._models: dict[str, ServedModel] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._guards: dict[str, Guard] = {}
        self._cold: list[tuple[ServedModel, int]] = []
        self._pace = Pace()
        self._batcher = Batcher({})
        self._flight: Flight | None = None
        self._depths: dict[str, int] = {}

    def submit(self, request: Request) -> None:
        """Queue a request for a model that is ready here; from the event loop's thread."""
        self._inbox.put((request, time.monotonic()))

    def cancel(self, request_id: int) -> None:
        """Nobody waits for it any more; from the event loop's thread."""
        self._inbox.put(request_id)

    def run(self) -> None:
        """Never returns. A process whose worker is dead would take requests and answer none: it ends with it."""
        try:
            self._serve()
        except BaseException:
            log.exception("worker died")
            os._exit(1)

    def _serve(self) -> None:
        torch.set_num_threads(self._threads)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # what names no device goes to the first one, and takes memory there
        states = [self._load(folder) for folder in self._folders]
        with torch.inference_mode():
            states = [self._prepare(state) for state in states]
            self._batcher = Batcher({name: model.cap for name, model in self._models.items()})
            self._runner = self._make_runner()
            self._seals = SealWatch(self._guards.values())
            self._ready(states)
            while True:
                self._step()

    def _make_runner(self) -> Runner:
        caps = Caps({name: model.sizes for name, model in self._models.items()}, self._batcher, self._metrics)
        return Runner(
            self._models,
            self._guards,
            self._aboard,
            caps,
            self._pace,
            self._batcher.cancel,
            self._watchdog_seconds,
            self._metrics,
        )

    def _load(self, folder: ModelFolder) -> ModelState:
        state = ModelState(folder.name, "loading", required=folder.card.required)
        try:
            loaded = load(folder)
            tuned = self._records.read_tuned(tuning_key(loaded, self._device, self._threads))
            model = ServedModel(loaded, folder.card, self._device, tuned)
            verdict = self._verdicts[folder.name] = self._read_verdict(folder, model)
            key = model.artefact_key(self._threads)
            known = verdict.tuning or self._tunings.get(loaded.version) or self._records.read_tuning(key)
            model.tune(known, self._threads)
        except ConfigurationError as error:
            return self._failed(state, str(error))
        except Exception as error:
            log.exception("loading failed", model=folder.name)
            return self._failed(state, f"loading: {type(error).__name__}: {error}")
        self._models[folder.name] = model
        return model.state(state, verdict)

    def _read_verdict(self, folder: ModelFolder, model: ServedModel) -> Verdict:
        if not self._optimize:
            return Verdict("off", "optimize = eager")
        if never := ruled_out(folder.card):
            return never
        return self._packages.read(model.artefact_key(self._threads)) or PENDING

    def _use_package(self, model: ServedModel, verdict: Verdict) -> Verdict:
        """Answer with the package that won, if it is there, whole, ours, and does what it did when it was new."""
        key = model.artefact_key(self._threads)
        try:
            model.use_package(self._packages, key, verdict)
            return verdict
        except Exception as error:  # native code that somebody made on another day
            log.warning("package refused", model=model.loaded.name, why=str(error), then="it is built anew")
            model.run_eager()
            self._packages.forget(key, verdict)
            return msgspec.structs.replace(PENDING, detail=f"the package was refused: {error}")

    def _prepare(self, state: ModelState) -> ModelState:
        """Prove a loaded model through the function that answers requests."""
        model = self._models.get(state.name)
        if model is None:
            return state
        verdict = self._verdicts[state.name]
        if verdict.state == "compiled":
            verdict = self._use_package(model, verdict)
        try:
            report, verdict = self._prove_what_answers(model, verdict)
            batch_seconds = (report.passed and self._record_cuda_graphs(model)) or report.figures.batch_seconds
        except Exception as error:
            log.exception("proof failed", model=state.name)
            del self._models[state.name]
            return self._failed(state, f"the proof could not be run: {type(error).__name__}: {error}")
        self._metrics.self_check_passed.labels(state.name).set(report.passed)
        if not report.passed:
            del self._models[state.name]
            return model.state(self._failed(state, f"the proof failed: {report.refusal}"), verdict, report)
        self._guards[state.name] = model.guard()
        for size, seconds in batch_seconds.items():
            self._pace.record(state.name, size, seconds)
        self._metrics.seal_intact.labels(state.name).set(1)
        self._metrics.grad_graph_violations.labels(state.name)  # an alert looks for its increase from 0
        for rule in report.waivers:
            self._metrics.rule_waived.labels(state.name, rule).set(1)
        for kind, size in model.loaded.memory.items():
            self._metrics.model_memory.labels(state.name, kind).set(size)
        self._metrics.model_info.labels(state.name, model.loaded.version, "classification", str(self._device)).set(1)
        ready = ModelState(state.name, "ready", required=state.required)
        ready = msgspec.structs.replace(ready, example_seconds=self._pace.example_seconds(state.name))
        return model.state(ready, verdict, report)

    def _prove_what_answers(self, model: ServedModel, verdict: Verdict) -> tuple[Report, Verdict]:
        """The proof of the package, and of the eager forward where there is none or it does not pass."""
        if verdict.state == "compiled":
            try:
                report = self._prove(model)
                refusal = report.refusal
            except Exception as error:
                refusal = f"{type(error).__name__}: {error}"
            if not refusal:
                return report, verdict
            log.error("package fails the proof", model=model.loaded.name, why=refusal, then="eager answers")
            model.run_eager()
            verdict = verdict.condemned(f"the package fails the proof: {refusal}")
            self._packages.condemn(model.artefact_key(self._threads), verdict)
        return self._prove(model), verdict

    def _prove(self, model: ServedModel) -> Report:
        """The whole proof; where it was passed before and kept, at batch 1 and at the cap only.

        It is the warm-up too: no request pays for a primitive or a kernel made on first use. The sizes that a re-check
        leaves out are warmed when nobody waits.
        """
        key = model.proof_key(self._threads)
        kept = self._records.read(key)
        if kept is None or kept.tuning != model.tuning:
            report = model.check(model.sizes)
            if report.passed:
                self._records.write(key, Record(model.tuning, report))
            return report
        self._cold += [(model, size) for size in model.sizes[1:-1]]
        return msgspec.structs.replace(model.check(sorted({1, model.cap})), full=kept.report.figures)

    def _record_cuda_graphs(self, model: ServedModel) -> dict[int, float]:
        """On a GPU, replay what has been proven, where that gives the same answers and passes the proof itself.

        Returns:
            Seconds of a batch by its size, as it is replayed; nothing where it is not.
        """
        try:
            model.record_cuda_graphs(model.sizes)
            if not model.cuda_graphs:
                return {}
            report = model.check(sorted({1, model.cap}))
            if not report.refusal:
                return report.figures.batch_seconds
            why = f"the proof fails: {report.refusal}"
        except Exception as error:
            why = str(error)
        model.forget_cuda_graphs()
        log.warning("no CUDA graphs", model=model.loaded.name, why=why, then="kernels are launched one by one")
        return {}

    def _failed(self, state: ModelState, detail: str) -> ModelState:
        log.error("model failed", model=state.name, detail=detail)
        self._metrics.self_check_passed.labels(state.name).set(0)  # one that does not even load has not passed either
        return ModelState(state.name, "failed", required=state.required, detail=detail)

    def _step(self) -> None:
        """Wait for work, drop what nobody waits for, run one batch, hand the answers over; then a look at the seals."""
        if self._flight or self._wait_for_work():
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
        self._take_in()
        while not len(self._batcher):
            spare = 0.0 if self._cold else self._seals.due_in()
            if spare == 0:
                return False
            with contextlib.suppress(queue.Empty):
                self._note(self._inbox.get(timeout=spare))
                self._take_in()
        return True

    def _take_in(self) -> None:
        """Give the batcher all that has come."""
        while not self._inbox.empty():
            self._note(self._inbox.get_nowait())

    def _note(self, news: tuple[Request, float] | int) -> None:
        if isinstance(news, int):
            self._batcher.cancel(news)
        else:
            self._batcher.add(*news)

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
        elif caught.code is ExitCode.SEAL_BROKEN:
            self._metrics.seal_intact.labels(caught.model).set(0)
        os._exit(caught.code)

    def _answer(self) -> None:
        """End the batch under way, or one that begins now; where they overlap, the next one begins before it ends."""
        flight = self._flight or self._begin()
        self._flight = self._begin() if flight and self._is_followed(flight) else None
        if flight:
            try:
                answers = self._runner.end(flight)
            except CaughtError as caught:
                self._end(caught)
            self._deliver(self._with_forecast(flight.batch.model, answers))
            self._runner.count()

    def _is_followed(self, flight: Flight) -> bool:
        fewest = self._runner.followed_by(flight)
        self._take_in()
        return 0 < fewest <= self._batcher.next_in_company(flight.batch.model)

    def _begin(self) -> Flight | None:
        batch, dropped = self._next_batch()
        if dropped:
            late = DeadlineExceeded.name
            self._deliver([(r, Failure(r.id, late, "The deadline passed in the queue.")) for r in dropped])
        return self._runner.begin(batch) if batch else None

    def _next_batch(self) -> tuple[Batch | None, list[Request]]:
        self._take_in()
        shortest = {name: self._pace.shortest(name, self._batcher.next_size(name)) for name in self._models}
        dropped = self._batcher.drop_gone(time.monotonic(), shortest)
        batch = self._batcher.take()
        self._tell_depths()
        return batch, dropped

    def _tell_depths(self) -> None:
        for name in self._models:
            depth = self._batcher.depth(name)
            if depth != self._depths.get(name):
                self._depths[name] = depth
                self._metrics.queue_depth.labels(name).set(depth)

    def _with_forecast(self, model: str, answers: list[Answer]) -> list[Answer]:
        """Results say how long what waits will take, so that front ends refuse what would come too late.

        Reckoned once a batch: counting what waits goes through the queues.
        """
        self._take_in()
        if not len(self._batcher) and not self._flight:
            return answers
        waiting = {name: self._batcher.depth(name) for name in self._models}
        if self._flight:
            waiting[model] += self._flight.batch.size
        caps = {name: self._batcher.cap(name) for name in self._models}
        backlog = self._pace.backlog_seconds(model, waiting, caps)
        return [
            (request, msgspec.structs.replace(frame, backlog_seconds=backlog) if isinstance(frame, Result) else frame)
            for request, frame in answers
        ]
