"""A frozen model on its device: the function that answers requests, and what is asked of a model that serves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import torch
from torch import nn

from service.engine.batcher import ladder
from service.engine.cuda import CannotRecordError, CudaForward
from service.engine.forwards import (
    MEMORY_FORMATS,
    DeviceForward,
    EagerForward,
    Forward,
    PackageForward,
    RunningBatch,
)
from service.engine.guard import Guard, PackageGuard, WeightsGuard
from service.engine.staging import Staging, cap_of
from service.loader.card import Card
from service.loader.comparison import Comparison, apart
from service.loader.compiled import Arrays, Package, Target, bits
from service.loader.freeze import freeze
from service.loader.load import LoadedModel
from service.loader.output_findings import judge_constant, judge_outputs
from service.loader.proof import prove, tolerance_of
from service.loader.report import Finding, Precision, Report
from service.loader.tuning import Tuned, Tuning

#: Cap of a batch until somebody measures: beyond it a CPU's cache is the limit, a GPU's return diminishes.
DEFAULT_CAP = {"cpu": 8, "cuda": 32}


def nothing() -> None:
    """Do nothing between two forwards."""


class ServedModel:
    """One model of one engine. Only the worker thread touches it. It runs eager until told to run a package.

    Args:
        tuned: what `gradless bench --tune` found for it here. The card's cap is never exceeded.

    Attributes:
        adapter: its module, with what stands before and behind it.
        cap: the largest batch, in examples.
        sizes: the ladder of batch sizes up to the cap.
        staging: where its batches are put together.
        tuning: memory format and threads, whichever measured fastest.
        package: the package that answers; None while the module does.
        forward: what computes its batches.
    """

    package: PackageForward | None
    forward: Forward

    def __init__(self, loaded: LoadedModel, device: torch.device, tuned: Tuned | None = None) -> None:
        self.loaded = loaded
        self.card = loaded.card
        self.device = device
        self.tuned = tuned
        self.signature = loaded.signature
        largest = max(self.signature.example_bytes, sum(spec.nbytes for spec in loaded.adapter.raw))
        self.cap = min(_cap(loaded.card, device, tuned), cap_of(largest))
        self.sizes = ladder(self.cap)
        self.tuning = Tuning("contiguous_format", torch.get_num_threads())
        self.adapter = loaded.adapter.to(device)
        self.module = loaded.module
        self.staging = Staging(self.sizes, self.signature.inputs, pinned=device.type == "cuda")
        self.staging.fill(self.examples(self.cap))
        self._probe = self.examples(1)
        self.run_eager()

    def examples(self, count: int) -> Arrays:
        """Return made-up inputs on the CPU; no two alike where their dtypes allow it."""
        return self.adapter.preparation.examples(count)

    def run_batch(self, arrays: Arrays) -> Arrays:
        """Run a whole batch on the device.

        Args:
            arrays: for each input `(N, *shape)` on the CPU; N is on the ladder.

        Returns:
            The outputs of the model, `(N, *shape)` each, on the device.

        Raises:
            ModelOutputInvalid: they are not what they were at the start.
        """
        return self.begin_batch(arrays).wait()

    def begin_batch(self, arrays: Arrays) -> RunningBatch:
        """Do the first half of `run_batch`; to wait for what is returned is the second."""
        forward = self.forward
        if torch.get_num_threads() != forward.threads:
            torch.set_num_threads(forward.threads)
        return RunningBatch(forward.begin(arrays), len(arrays[0]), self.adapter.check)

    def results(self, outputs: Arrays) -> tuple[Arrays, Mapping[int, str]]:
        """Return what leaves the engine, on the CPU, and by its position which example may not leave, and why."""
        results = self.adapter.head.reduce(outputs)
        return results, self.adapter.head.faults(results)

    def target(self) -> Target:
        """Return what a package of it is made for: batches up to the cap, as it runs now."""
        dtype = self.adapter.preparation.dtype
        return Target(self.device, self.tuning.threads, dtype, self.cap, self.signature.inputs, self.adapter.raw)

    def run_eager(self) -> None:
        """Answer with the module from now on."""
        self.package = None
        self._answer_with(EagerForward(self.adapter.forward, self.device, self.tuning.threads))

    def run_package(self, package: Package, sha256: str = "") -> None:
        """Answer with a package from now on.

        Args:
            sha256: of its file; empty where that is not kept yet.
        """
        self.package = PackageForward(package, self.device, sha256)
        self._answer_with(self.package)

    def _answer_with(self, forward: DeviceForward) -> None:
        self._launched = forward
        self._gpu: CudaForward | None = None
        if self.device.type == "cuda":
            self._gpu = CudaForward(forward, self.cap, self.signature.inputs, self.device)
        self.forward = self._gpu or forward

    @contextlib.contextmanager
    def on_trial(self, package: Package) -> Iterator[None]:
        """Answer with this inside, and eager again after it."""
        self.run_package(package)
        try:
            yield
        finally:
            self.run_eager()

    def forget_cuda_graphs(self) -> None:
        """Launch the kernels of every batch one by one from now on."""
        self._answer_with(self._launched)

    @property
    def cuda_graphs(self) -> list[int]:
        """The batch sizes whose kernels are launched at once."""
        return self._gpu.recorded if self._gpu else []

    def record_cuda_graphs(self, sizes: Sequence[int]) -> None:
        """On a GPU, launch all kernels of these batch sizes at once from now on, in this thread's mode.

        Raises:
            CannotRecordError: they cannot be, or what was recorded answers otherwise.
        """
        missing = [size for size in sizes if size not in self.cuda_graphs]
        if not self._gpu or not missing:
            return
        examples = self.examples(max(missing))
        batches = [tuple(array[:size] for array in examples) for size in missing]
        try:
            launched = [self.run_batch(batch) for batch in batches]
            self._gpu.record(missing)
            replayed = [self.run_batch(batch) for batch in batches]
        except Exception as error:
            self.forget_cuda_graphs()
            raise CannotRecordError(f"{type(error).__name__}: {error}") from error
        found = max(map(apart, launched, replayed))
        if found > tolerance_of(self.module):
            self.forget_cuda_graphs()
            raise CannotRecordError(f"replayed, outputs differ by {found:.1e} of the largest")

    def apply(self, tuning: Tuning) -> None:
        """Answer with the module, laid out and with threads as the tuning says, from now on.

        Called outside inference mode, so that the weights stay normal tensors.
        """
        self.tuning = tuning
        self.adapter.preparation.memory_format = MEMORY_FORMATS[tuning.memory_format]
        self.module.to(memory_format=MEMORY_FORMATS[tuning.memory_format])
        self.run_eager()  # anew: a CUDA graph knows the weights by their addresses

    def warm_up(self, sizes: Sequence[int]) -> None:
        """Run each size twice, so that no request pays for a primitive or a kernel made on first use."""
        for size in sizes:
            for _ in range(2):
                self.run_batch(self.staging.as_it_is(size))

    def probe(self) -> Arrays:
        """Outputs for a fixed input."""
        return self.run_batch(self._probe)

    def check(self, sizes: Sequence[int], between: Callable[[], object] = nothing) -> Report:
        """The proof at these batch sizes, through `run_batch`, in the calling thread and its mode.

        Args:
            between: called before each forward.

        Raises:
            Refusal: `run_batch` refused an example.
        """
        freeze(self.module)  # so that what an earlier forward undid is found, and told, as forward's doing
        examples = self.examples(2 * max(sizes))
        waive = self.card.proof.waive
        report = prove(self.run_batch, self.module, examples, sizes, waive, between, self._odd)
        findings = [*report.findings, *self.loaded.findings]
        return msgspec.structs.replace(report, precision=self._precision(), findings=findings)

    def _odd(self, comparison: Comparison) -> list[Finding]:
        allowed = self.card.allow_constant
        if not self.adapter.head.has_probabilities:
            return judge_constant(comparison, allowed)
        rows, contrast, tolerance = comparison.rows, comparison.contrast, comparison.tolerance
        return judge_outputs(rows, contrast, tolerance, self.card.activation, allowed, self.loaded.end)

    def _precision(self) -> Precision | None:
        """Compare the answers with those in float32; None for a model that computes in it."""
        expected = self.loaded.in_float32
        if expected is None:
            return None
        examples = self.examples(len(expected))
        rows = []
        for place in range(len(expected)):
            outputs = self.run_batch(tuple(array[place : place + 1] for array in examples))
            rows.append(self.adapter.head.probabilities(outputs))
        found = torch.cat([row.cpu() for row in rows if row is not None])
        same = int((found.argmax(1) == expected.argmax(1)).sum())
        return Precision(self.card.dtype, len(expected), float((found - expected).abs().max()), same)

    def guard(self) -> Guard:
        """Make the guard that watches over the model. With a package, the module has done its part and is let go."""
        memory = [*self.staging.buffers, *(self._gpu.buffers if self._gpu else ())]
        if not self.package:
            return WeightsGuard(self.loaded.name, memory, self.adapter.sealed, self.loaded.seal)
        self.adapter.module = self.module = nn.Module()
        return PackageGuard(self.loaded.name, memory, lambda: bits(self.probe()))


def _cap(card: Card, device: torch.device, tuned: Tuned | None) -> int:
    """The largest batch; a model not known to be indifferent to company runs alone."""
    if "batch-invariant" in card.proof.waive:
        return 1
    stated = card.batching.max_batch_size
    if tuned:
        return min(tuned.tuning.cap, stated or tuned.tuning.cap)
    return stated or DEFAULT_CAP[device.type]
