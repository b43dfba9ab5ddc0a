"""A frozen model on its device: the function that answers requests, and what is asked of a model that serves."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import msgspec
import torch
from torch import Tensor, nn

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
from service.engine.staging import Staging
from service.loader.card import Card
from service.loader.compiled import Entry, Package, Target, bits
from service.loader.freeze import freeze
from service.loader.load import LoadedModel
from service.loader.probes import probes
from service.loader.proof import distance, prove, tolerance_of
from service.loader.report import Precision, Report
from service.loader.tuning import Tuned, Tuning
from service.tasks.adapters.heads import probabilities_of
from service.tasks.adapters.picture import mean_and_std, normalise

#: Cap of a batch until somebody measures: beyond it a CPU's cache is the limit, a GPU's return diminishes.
DEFAULT_CAP = {"cpu": 8, "cuda": 32}


def nothing() -> None:
    """Do nothing between two forwards."""


class ServedModel:
    """One model of one engine. Only the worker thread touches it. It runs eager until told to run a package.

    Args:
        tuned: what `gradless bench --tune` found for it here. The card's cap is never exceeded.

    Attributes:
        cap: the largest batch, in examples.
        sizes: the ladder of batch sizes up to the cap.
        staging: where its batches are put together.
        tuning: memory format and threads, whichever measured fastest.
        activation: what makes probabilities of its outputs.
        package: the package that answers; None while the module does.
        forward: what computes its batches.
    """

    package: PackageForward | None
    forward: Forward

    def __init__(self, loaded: LoadedModel, card: Card, device: torch.device, tuned: Tuned | None = None) -> None:
        self.loaded = loaded
        self.card = card
        self.device = device
        self.tuned = tuned
        self.cap = _cap(card, device, tuned)
        self.sizes = ladder(self.cap)
        self.tuning = Tuning("contiguous_format", torch.get_num_threads())
        self.activation = card.activation
        self.module = loaded.module.to(device)
        self._dtype = getattr(torch, card.dtype)
        self._mean, self._std = mean_and_std(loaded.input, device)
        self.staging = Staging(self.sizes, loaded.input.shape, pinned=device.type == "cuda")
        self._probe = probes(1, loaded.input.shape)
        self.run_eager()

    def run_batch(self, pixels: Tensor) -> Tensor:
        """Normalise and forward a whole batch on the device.

        Args:
            pixels: `(N, C, H, W) uint8`; N is on the ladder.

        Returns:
            Logits `(N, classes)` on the device.

        Raises:
            ModelOutputInvalid: the model did not give one row of class scores for each input.
        """
        return self.begin_batch(pixels).wait()

    def begin_batch(self, pixels: Tensor) -> RunningBatch:
        """Do the first half of `run_batch`; to wait for what is returned is the second."""
        forward = self.forward
        if torch.get_num_threads() != forward.threads:
            torch.set_num_threads(forward.threads)
        return RunningBatch(forward.begin(pixels), len(pixels), self.loaded.classes)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return what the module takes for pixels on the device, in the memory format that was chosen."""
        return normalise(pixels, self._mean, self._std, self._dtype, MEMORY_FORMATS[self.tuning.memory_format])

    def entry(self) -> Entry:
        """Return what a compiler makes a package of: all that `run_batch` does on the device."""
        return Entry(self.module, self._mean, self._std, self._dtype, MEMORY_FORMATS[self.tuning.memory_format])

    def target(self) -> Target:
        """Return what a package of it is made for: batches up to the cap, as it runs now."""
        return Target(self.device, self.tuning.threads, self._dtype, self.cap, self.loaded.input.shape)

    def run_eager(self) -> None:
        """Answer with the module from now on."""
        self.package = None
        self._answer_with(EagerForward(self.module, self.normalised, self.device, self.tuning.threads))

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
            self._gpu = CudaForward(forward, self.cap, self.loaded.input.shape, self.device)
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
        examples = probes(max(missing), self.loaded.input.shape)
        try:
            launched = [self.run_batch(examples[:size]) for size in missing]
            self._gpu.record(missing)
            replayed = [self.run_batch(examples[:size]) for size in missing]
        except Exception as error:
            self.forget_cuda_graphs()
            raise CannotRecordError(f"{type(error).__name__}: {error}") from error
        found = apart(launched, replayed)
        if found > tolerance_of(self.module):
            self.forget_cuda_graphs()
            raise CannotRecordError(f"replayed, outputs differ by {found:.1e} of the largest")

    def apply(self, tuning: Tuning) -> None:
        """Answer with the module, laid out and with threads as the tuning says, from now on.

        Called outside inference mode, so that the weights stay normal tensors.
        """
        self.tuning = tuning
        self.module.to(memory_format=MEMORY_FORMATS[tuning.memory_format])
        self.run_eager()  # anew: a CUDA graph knows the weights by their addresses

    def warm_up(self, sizes: Sequence[int]) -> None:
        """Run each size twice, so that no request pays for a primitive or a kernel made on first use."""
        for size in sizes:
            for _ in range(2):
                self.run_batch(self.staging.as_it_is(size))

    def probe(self) -> Tensor:
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
        examples = probes(2 * max(sizes), self.loaded.input.shape)
        waive, allow_constant = self.card.proof.waive, self.card.allow_constant
        report = prove(
            self.run_batch,
            self.module,
            examples,
            sizes,
            waive,
            self.activation,
            allow_constant,
            between,
            self.loaded.end,
        )
        findings = [*report.findings, *self.loaded.findings]
        return msgspec.structs.replace(report, precision=self._precision(), findings=findings)

    def _precision(self) -> Precision | None:
        """Compare the answers with those in float32; None for a model that computes in it."""
        expected = self.loaded.in_float32
        if expected is None:
            return None
        pictures = probes(len(expected), self.loaded.input.shape)
        outputs = torch.cat([self.run_batch(picture.unsqueeze(0)).float().cpu() for picture in pictures])
        found = probabilities_of(outputs, self.activation)
        same = int((found.argmax(1) == expected.argmax(1)).sum())
        return Precision(self.card.dtype, len(expected), float((found - expected).abs().max()), same)

    def guard(self) -> Guard:
        """Make the guard that watches over the model. With a package, the module has done its part and is let go."""
        if not self.package:
            return WeightsGuard(self.loaded.name, self.module, self.loaded.seal)
        self.loaded = dataclasses.replace(self.loaded, module=nn.Module())
        self.module = self.loaded.module
        return PackageGuard(self.loaded.name, lambda: bits(self.probe()))


def apart(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest difference, as a share of the first one's largest output."""
    return distance(expected, found) / (float(expected[0].abs().max()) or 1.0)


def _cap(card: Card, device: torch.device, tuned: Tuned | None) -> int:
    """The largest batch; a model not known to be indifferent to company runs alone."""
    if "batch-invariant" in card.proof.waive:
        return 1
    stated = card.batching.max_batch_size
    if tuned:
        return min(tuned.tuning.cap, stated or tuned.tuning.cap)
    return stated or DEFAULT_CAP[device.type]
