"""Bring models up one after the other: load, lay out, prove. Each is ready as soon as it is proven.

Loading and laying out leave inference mode, because weights then stay normal tensors whose `_version` still counts
in-place changes. The proof runs in the mode that serves, because what is built in another one is built again.

Between two forwards of a measurement or a proof the worker answers what waits for models that are ready. A load cannot
be interrupted: it stalls those answers once, for as long as it takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
import structlog
import torch

from service.engine.cache_keys import package_key, proof_key, tuning_key
from service.engine.guard import Guard
from service.engine.measure import Stopwatch
from service.engine.model import ServedModel
from service.engine.package import use_package
from service.errors import ConfigurationError
from service.loader.artefact import Record, Records
from service.loader.load import load
from service.loader.outputs import check_found
from service.loader.packages import Packages, ruled_out
from service.loader.report import WAIVABLE, Report
from service.loader.repository import ModelFolder
from service.loader.verdict import PENDING, Verdict
from service.metrics import Metrics
from service.wire.messages import ModelState
from service.wire.specs import WorkerSpec

log = structlog.get_logger()

#: Called before each forward of a measurement or a proof.
Between = Callable[[], object]


class PutOffError(BaseException):
    """Another model is waited for, and this one is not: its proof ends here, and begins again later.

    Not an Exception: what catches those of an operator's code must let it through.
    """


@dataclass(eq=False)
class Proven:
    """A model that may be served.

    Attributes:
        guard: what watches over it.
        batch_seconds: by batch size, what the proof measured.
        cold: batch sizes that the proof left out, to be warmed up when nobody waits.
    """

    model: ServedModel
    guard: Guard
    batch_seconds: Mapping[int, float]
    cold: list[int]


@dataclass(eq=False)
class Brought:
    """A model that has been brought up; `proven` is None of one that has failed."""

    state: ModelState
    proven: Proven | None = None


@dataclass(eq=False)
class _Loaded:
    """A model between its load and the end of its proof, which may have been put off."""

    model: ServedModel
    verdict: Verdict
    cold: list[int] = field(default_factory=list)


class BringUp:
    """Loads and proves models, in the worker's thread.

    Attributes:
        device: where they run.
        threads: intra-op threads of the worker.
    """

    def __init__(self, spec: WorkerSpec, metrics: Metrics) -> None:
        self.device = torch.device(spec.device)
        self.threads = spec.threads
        self._tunings = dict(spec.tunings)  # they save measuring again
        self._records = Records(spec.settings.cache)
        self._packages = Packages(spec.settings.cache)
        self._optimize = spec.settings.optimize == "auto"  # `eager` on a model's card says no for that one
        self._metrics = metrics
        self._loaded: dict[str, _Loaded] = {}
        self._seconds: dict[str, float] = {}

    def bring_up(self, folder: ModelFolder, between: Between) -> Brought:
        """Load a model and prove it, through the function that answers requests; called in inference mode.

        Args:
            between: called before the load and before each forward of a measurement or proof.

        Raises:
            PutOffError: `between` did; what has been loaded is kept for the next call.
        """
        name, began = folder.name, time.monotonic()
        self._metrics.grad_graph_violations.labels(name)  # an alert looks for its increase from 0
        try:
            between()
            brought = self._bring_up(folder, between)
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - began
        self._loaded.pop(name, None)
        if brought.proven:
            log.info("model ready", model=name, device=str(self.device), seconds=round(self._seconds[name], 2))
        return brought

    def failed(self, state: ModelState, detail: str) -> ModelState:
        log.error("model failed", model=state.name, detail=detail)
        self._metrics.self_check_passed.labels(state.name).set(0)  # one that does not even load has not passed either
        return ModelState(state.name, "failed", required=state.required, detail=detail, task=state.task)

    def _bring_up(self, folder: ModelFolder, between: Between) -> Brought:
        state = ModelState(folder.name, "ready", required=folder.card.required, task=folder.card.task)
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode(False):
                loaded = self._loaded[folder.name] = self._loaded.get(folder.name) or self._load(folder)
            between()
            with torch.inference_mode(False):
                self._tune(loaded, between)
        except ConfigurationError as error:
            return Brought(self.failed(state, str(error)))
        except Exception as error:
            log.exception("loading failed", model=folder.name)
            return Brought(self.failed(state, f"loading: {type(error).__name__}: {error}"))
        try:
            report, batch_seconds = self._prove_what_answers(loaded, between)
        except Exception as error:
            log.exception("proof failed", model=folder.name)
            return Brought(self.failed(state, f"the proof could not be run: {type(error).__name__}: {error}"))
        self._metrics.self_check_passed.labels(folder.name).set(report.passed)
        if not report.passed:
            state = self.failed(state, f"the proof failed: {report.refusal}")
            return Brought(_state_of(loaded, state, report))
        for finding in report.findings:
            log.warning("model warned of", model=folder.name, finding=finding.name, detail=finding.detail)
        self._tell_metrics(loaded.model, report)
        guard = loaded.model.guard()
        state = _state_of(loaded, state, report)
        return Brought(state, Proven(loaded.model, guard, batch_seconds, loaded.cold))

    def _load(self, folder: ModelFolder) -> _Loaded:
        loaded = load(folder)
        check_found(folder, loaded.version, loaded.signature.outputs, self._records)
        tuned = self._records.read_tuned(tuning_key(loaded, self.device, self.threads))
        model = ServedModel(loaded, self.device, tuned)
        return _Loaded(model, self._read_verdict(folder, model))

    def _read_verdict(self, folder: ModelFolder, model: ServedModel) -> Verdict:
        if not self._optimize:
            return Verdict("off", "optimize = eager")
        if never := ruled_out(folder.card):
            return never
        return self._packages.read(package_key(model, self.threads)) or PENDING

    def _tune(self, loaded: _Loaded, between: Between) -> None:
        model = loaded.model
        known = loaded.verdict.tuning or self._tunings.get(model.loaded.version)
        known = known or self._records.read_tuning(package_key(model, self.threads))
        Stopwatch(model, between).tune(known, self.threads)  # eager: a proof that was put off may have left a package
        self._tunings[model.loaded.version] = model.tuning

    def _use_package(self, model: ServedModel, verdict: Verdict) -> Verdict:
        """Answer with the package that won, if it is there, whole, ours, and does what it did when it was new."""
        key = package_key(model, self.threads)
        try:
            use_package(model, self._packages, key, verdict)
            return verdict
        except Exception as error:  # native code that somebody made on another day
            log.warning("package refused", model=model.loaded.name, why=str(error), then="it is built anew")
            model.run_eager()
            self._packages.forget(key, verdict)
            return msgspec.structs.replace(PENDING, detail=f"the package was refused: {error}")

    def _prove_what_answers(self, loaded: _Loaded, between: Between) -> tuple[Report, dict[int, float]]:
        """Prove the package, or the eager forward where there is none or it does not pass; then its CUDA graphs.

        Returns:
            The report, and seconds of a batch by its size.
        """
        model = loaded.model
        if loaded.verdict.state == "compiled":
            loaded.verdict = self._use_package(model, loaded.verdict)
        report = self._prove_package(loaded, between) if loaded.verdict.state == "compiled" else None
        report = report or self._prove(loaded, between)
        replayed = self._record_cuda_graphs(model, between) if report.passed else {}
        return report, replayed or report.figures.batch_seconds

    def _prove_package(self, loaded: _Loaded, between: Between) -> Report | None:
        """Prove the package that answers; one that fails is condemned, and the eager forward answers."""
        model = loaded.model
        try:
            report = self._prove(loaded, between)
            refusal = report.refusal
        except Exception as error:
            refusal = f"{type(error).__name__}: {error}"
        if not refusal:
            return report
        log.error("package fails the proof", model=model.loaded.name, why=refusal, then="eager answers")
        model.run_eager()
        loaded.verdict = loaded.verdict.condemned(f"the package fails the proof: {refusal}")
        self._packages.condemn(package_key(model, self.threads), loaded.verdict)
        return None

    def _prove(self, loaded: _Loaded, between: Between) -> Report:
        """The whole proof; where it was passed before and kept, at batch 1 and at the cap only.

        It is the warm-up too: no request pays for a primitive or a kernel made on first use. The sizes that a re-check
        leaves out are warmed when nobody waits.
        """
        model = loaded.model
        key = proof_key(model, self.threads)
        kept = self._records.read(key)
        loaded.cold = []
        if kept is None or kept.tuning != model.tuning:
            report = model.check(model.sizes, between)
            if report.passed:
                self._records.write(key, Record(model.tuning, report))
            return report
        loaded.cold = model.sizes[1:-1]
        return msgspec.structs.replace(model.check(sorted({1, model.cap}), between), full=kept.report.figures)

    def _record_cuda_graphs(self, model: ServedModel, between: Between) -> dict[int, float]:
        """On a GPU, replay what has been proven, where that gives the same answers and passes the proof itself.

        Returns:
            Seconds of a batch by its size, as it is replayed; nothing where it is not.
        """
        try:
            model.record_cuda_graphs(model.sizes)
            if not model.cuda_graphs:
                return {}
            report = model.check(sorted({1, model.cap}), between)
            if not report.refusal:
                return report.figures.batch_seconds
            why = f"the proof fails: {report.refusal}"
        except Exception as error:
            why = str(error)
        model.forget_cuda_graphs()
        log.warning("no CUDA graphs", model=model.loaded.name, why=why, then="kernels are launched one by one")
        return {}

    def _tell_metrics(self, model: ServedModel, report: Report) -> None:
        loaded, metrics = model.loaded, self._metrics
        metrics.seal_intact.labels(loaded.name).set(1)
        for rule in WAIVABLE:
            metrics.rule_waived.labels(loaded.name, rule).set(rule in report.waivers)
        for kind, size in loaded.memory.items():
            metrics.model_memory.labels(loaded.name, kind).set(size)
        metrics.model_info.labels(loaded.name, loaded.version, loaded.card.task, str(self.device)).set(1)


def _state_of(loaded: _Loaded, base: ModelState, report: Report) -> ModelState:
    """Return the state that front ends are told of; name, state and detail are `base`'s."""
    model = loaded.model
    return msgspec.structs.replace(
        base,
        version=model.loaded.version,
        seal=model.loaded.seal,
        task=model.card.task,
        signature=model.signature,
        input_kind=model.card.input_kind,
        input=model.loaded.input_shown,
        decoded_for=model.loaded.decoded_for,
        answer=model.loaded.answer,
        batch_sizes=model.sizes,
        tuning=model.tuning,
        tuned=model.tuned,
        cuda_graphs=model.cuda_graphs,
        memory_bytes=model.loaded.memory,
        card=model.card.model_dump(mode="json", exclude_none=True),
        report=report,
        verdict=loaded.verdict,
    )
