"""A frozen model on its device: the function that answers requests, and what it needs to be fast."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from service.engine import cuda
from service.engine.batcher import ladder
from service.engine.cuda import CudaForward
from service.engine.guard import Guard, PackageGuard, WeightsGuard
from service.engine.wire import ModelState
from service.errors import ModelOutputInvalid
from service.loader.artefact import artefact_key
from service.loader.card import Card
from service.loader.compiled import Entry, Package, Target, bits
from service.loader.compilers import load_package
from service.loader.freeze import freeze
from service.loader.load import LoadedModel
from service.loader.packages import Packages, RefusedPackageError
from service.loader.probes import probes
from service.loader.proof import distance, prove, tolerance_of
from service.loader.report import Precision, Report, Tuned, Tuning, Verdict
from service.tasks.classification import normalise

#: Cap of a batch until somebody measures: beyond it a CPU's cache is the limit, a GPU's return diminishes.
DEFAULT_CAP = {"cpu": 8, "cuda": 32}

#: A forward at the cap that one thread does in this time, or in such a share of the others', keeps to one thread. On a
#: busy machine a tiny forward in two threads can take 50 ms: whoever measures it there must not be misled for good.
SHORT_SECONDS, MUCH_SHORTER = 0.004, 0.5

FORMATS = {"contiguous_format": torch.contiguous_format, "channels_last": torch.channels_last}


class CannotRecordError(Exception):
    """A GPU has to be given the kernels of a forward one by one; the message says why."""


class ServedModel:
    """One model of one engine. Only the worker thread touches it. It runs eager until told to run a package.

    Args:
        tuned: what `gradless bench --tune` found for it here. The card's cap is never exceeded.

    Attributes:
        cap: the largest batch, in examples.
        sizes: the ladder of batch sizes up to the cap.
        tuning: memory format and threads, whichever measured fastest.
    """

    def __init__(self, loaded: LoadedModel, card: Card, device: torch.device, tuned: Tuned | None = None) -> None:
        self.loaded = loaded
        self.cap = _cap(card, device, tuned)
        self.sizes = ladder(self.cap)
        self.tuning = Tuning("contiguous_format", torch.get_num_threads())
        self._tuned = tuned
        self._card = card
        self._device = device
        self.module = loaded.module.to(device)
        self._dtype = getattr(torch, card.dtype)
        self._mean = torch.tensor(loaded.input.mean, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(loaded.input.std, dtype=torch.float32, device=device).view(1, 3, 1, 1)
        crop = loaded.input.crop
        pinned = device.type == "cuda"  # only from pinned memory can a copy run beside the host
        self._stagings = [
            torch.zeros((self.cap, 3, crop, crop), dtype=torch.uint8, pin_memory=pinned) for _ in range(2)
        ]
        self._bytes = [staging.numpy().reshape(-1).data for staging in self._stagings]
        # Each first so many examples: made for each batch, such a view costs as much as to fill it with one.
        self._firsts = [{3 * crop**2 * size: staging[:size] for size in self.sizes} for staging in self._stagings]
        self._probe = probes(1, crop)
        self._answer_with(self._eager)

    def collate(self, parts: Iterable[memoryview], slot: int) -> Tensor:
        """Examples side by side: `(N, 3, H, W) uint8` on the CPU, valid until the next call for the slot, 0 or 1."""
        there, end = self._bytes[slot], 0
        for part in parts:
            start, end = end, end + len(part)
            there[start:end] = part
        return self._firsts[slot][end]

    def run_batch(self, pixels: Tensor) -> Tensor:
        """Normalise and forward a whole batch on the device.

        Args:
            pixels: `(N, 3, H, W) uint8`; N is on the ladder.

        Returns:
            Logits `(N, classes)` on the device.

        Raises:
            ModelOutputInvalid: the model did not give one row of class scores for each input.
        """
        return self.begin_batch(pixels)()

    @property
    def overlaps_from(self) -> int:
        """Of how many examples a batch must be to begin before another such one has ended; 0: it waits for it."""
        if self._gpu:
            return cuda.OVERLAPS_FROM if self._gpu.recorded else 0
        return self._forward.overlaps_from if isinstance(self._forward, Package) else 0

    def begin_batch(self, pixels: Tensor) -> Callable[[], Tensor]:
        """What `run_batch` does, in two steps: the second ends it. A forward that does not overlap is all in that."""
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        if self._gpu and len(pixels) <= self.cap:
            end = self._gpu.begin(pixels)
        elif isinstance(self._forward, Package) and self._forward.begin:
            end = self._forward.begin(pixels)
        else:
            end = functools.partial(self._forward, pixels.to(self._device))
        return lambda: self._checked(end(), pixels)

    def _checked(self, logits: Any, pixels: Tensor) -> Tensor:
        """The outputs of a forward that has ended."""
        if not isinstance(logits, Tensor) or logits.shape != (len(pixels), self.loaded.classes):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            wanted = (len(pixels), self.loaded.classes)
            raise ModelOutputInvalid(f"The model returned {got} for {len(pixels)} inputs; it must return {wanted}.")
        return logits

    def _eager(self, pixels: Tensor) -> Any:
        return self.module(self.normalised(pixels))

    def normalised(self, pixels: Tensor) -> Tensor:
        """What the module sees of pixels on the device, in the memory format that was chosen."""
        return normalise(pixels, self._mean, self._std, self._dtype, FORMATS[self.tuning.memory_format])

    def entry(self) -> Entry:
        """What a compiler makes a package of: all that `run_batch` does on the device."""
        return Entry(self.module, self._mean, self._std, self._dtype, FORMATS[self.tuning.memory_format])

    def target(self) -> Target:
        """What a package of it is made for: as it runs now, for up to the cap."""
        return Target(self._device, self.tuning.threads, self._dtype, self.cap, self.loaded.input.crop)

    def _measured_with(self, verdict: Verdict) -> Target:
        """Whatever was found out since, a package runs with the threads that it was measured with."""
        threads = verdict.tuning.threads if verdict.tuning else self.tuning.threads
        return dataclasses.replace(self.target(), threads=threads)

    def run_package(self, package: Package, sha256: str) -> None:
        """Answer with this from now on."""
        self._answer_with(package, sha256)

    def _answer_with(self, forward: Callable[[Tensor], Any], package: str = "") -> None:
        self._forward, self._package = forward, package
        self._gpu: CudaForward | None = None
        if self._device.type == "cuda":
            self._gpu = CudaForward(forward, self.cap, self.loaded.input.crop, self._device)

    def forget_cuda_graphs(self) -> None:
        """Launch the kernels of every batch one by one from now on."""
        self._answer_with(self._forward, self._package)

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
        examples = probes(max(missing), self.loaded.input.crop)
        try:
            launched = [self.run_batch(examples[:size]) for size in missing]
            self._gpu.record(missing)
            replayed = [self.run_batch(examples[:size]) for size in missing]
        except Exception as error:
            self.forget_cuda_graphs()
            raise CannotRecordError(f"{type(error).__name__}: {error}") from error
        found = _apart(launched, replayed)
        if found > tolerance_of(self.module):
            self.forget_cuda_graphs()
            raise CannotRecordError(f"replayed, outputs differ by {found:.1e} of the largest")

    @property
    def _threads(self) -> int:
        """torch's, in this thread, while it answers."""
        return self._forward.intra_op_threads if isinstance(self._forward, Package) else self.tuning.threads

    @contextlib.contextmanager
    def on_trial(self, package: Package) -> Iterator[None]:
        """Answer with this inside, and eager again after it."""
        self.run_package(package, "on trial")
        try:
            yield
        finally:
            self.run_eager()

    def use_package(self, packages: Packages, key: str, verdict: Verdict) -> None:
        """Answer with the package that a verdict names, in this thread's mode, which is inference mode.

        Raises:
            RefusedPackageError: it is not ours, not whole, or does not do what it did when it was new.
        """
        file = packages.open(verdict)
        with packages.trying(key):
            self.run_eager()
            eager = self.run_batch(self._probe)
            self.run_package(load_package(file, self._measured_with(verdict)), verdict.sha256)
            compiled = self.run_batch(self._probe)
            if bits(compiled) != verdict.probe:
                raise RefusedPackageError(f"{file} answers a fixed input with other bits than when it was made")
            found = _apart([eager], [compiled])
            if found > tolerance_of(self.module):  # the module may have changed in what it imports, which no key covers
                raise RefusedPackageError(
                    f"{file} differs from what eager answers now by {found:.1e} of the largest output"
                )

    def run_eager(self) -> None:
        """Answer with the module from now on."""
        self._answer_with(self._eager)

    def probe(self) -> str:
        """Bits of the outputs for a fixed input."""
        return bits(self.run_batch(self._probe))

    def tune(self, known: Tuning | None, threads: int) -> None:
        """Lay the weights out, and take as many of `threads`, as measures fastest here.

        `known` is what an earlier measurement found. Nothing has a fixed winner: channels_last triples
        EfficientNet-Lite0 on AVX-512 and slows other models down. And a second thread halves a long forward, but a
        tiny one mostly waits for it to be scheduled: a model of one layer served 430 pictures/s with two threads on
        two busy cores, 1,830 with one.
        """
        self.apply(self._tuned.tuning if self._tuned else known or self._measure(threads))

    def _measure(self, threads: int) -> Tuning:
        seconds = {tuning: self.time(tuning) for tuning in (Tuning(name, threads) for name in FORMATS)}
        fastest = min(seconds, key=lambda tuning: seconds[tuning])
        alone = Tuning(fastest.memory_format, 1)
        if self._device.type == "cpu" and self.time(alone) < max(SHORT_SECONDS, MUCH_SHORTER * seconds[fastest]):
            return alone
        return fastest

    def apply(self, tuning: Tuning) -> None:
        """Run so from now on. Called outside inference mode, so that the weights stay normal tensors."""
        self.tuning = tuning
        self.module.to(memory_format=FORMATS[tuning.memory_format])
        self.forget_cuda_graphs()  # a graph knows the weights by their addresses

    def time(self, tuning: Tuning, size: int = 0, seconds: float = 0.0, forwards: int = 3) -> float:
        """Seconds of the best forward of `size` examples, at the cap without one, after one that is not counted.

        There are at least so many `forwards`, and as many as `seconds` hold.
        """
        self.apply(tuning)
        with torch.inference_mode():
            return self.best_of(size or self.cap, forwards, seconds)

    def times(self, tuning: Tuning) -> dict[int, float]:
        """The same at every batch size."""
        return {size: self.time(tuning, size) for size in self.sizes}

    def best_of(self, size: int, forwards: int, seconds: float = 0.0) -> float:
        """The same as it runs now, in this thread's mode; on a GPU as it will run, which is recorded if it can be."""
        with contextlib.suppress(CannotRecordError):
            self.record_cuda_graphs([size])
        pixels = self._stagings[0][:size]
        self.run_batch(pixels)
        end = time.perf_counter() + seconds
        times = [self._timed(pixels) for _ in range(forwards)]
        while time.perf_counter() < end:
            times.append(self._timed(pixels))
        return min(times)

    def _timed(self, pixels: Tensor) -> float:
        """Seconds a batch, with another one under way where that may be: as when many wait."""
        count = 2 if 0 < self.overlaps_from <= len(pixels) else 1
        began = time.perf_counter()
        for end in [self.begin_batch(pixels) for _ in range(count)]:
            end()
        return (time.perf_counter() - began) / count

    def warm_up(self, sizes: Sequence[int]) -> None:
        """Run each size twice, so that no request pays for a primitive or a kernel made on first use."""
        for size in sizes:
            for _ in range(2):
                self.run_batch(self._stagings[0][:size])

    def check(self, sizes: Sequence[int]) -> Report:
        """The proof at these batch sizes, through `run_batch`, in the calling thread and its mode.

        Raises:
            Refusal: `run_batch` refused an example.
        """
        freeze(self.module)  # so that what an earlier forward undid is found, and told, as forward's doing
        examples = probes(2 * max(sizes), self.loaded.input.crop)
        report = prove(self.run_batch, self.module, examples, sizes, self._card.proof.waive)
        return msgspec.structs.replace(report, precision=self._precision())

    def _precision(self) -> Precision | None:
        """How far the answers are from those in float32; None of a model that computes in it."""
        expected = self.loaded.in_float32
        if expected is None:
            return None
        pictures = probes(len(expected), self.loaded.input.crop)
        found = torch.cat([self.run_batch(picture.unsqueeze(0)).float().cpu() for picture in pictures]).softmax(dim=1)
        same = int((found.argmax(1) == expected.argmax(1)).sum())
        return Precision(self._card.dtype, len(expected), float((found - expected).abs().max()), same)

    def guard(self) -> Guard:
        """What watches over the model from now on. With a package, the module has done its part and is let go."""
        if not self._package:
            return WeightsGuard(self.loaded.name, self.module, self.loaded.seal)
        self.loaded = dataclasses.replace(self.loaded, module=nn.Module())
        self.module = self.loaded.module
        return PackageGuard(self.loaded.name, self.probe)

    def artefact_key(self, threads: int) -> str:
        """Under which is kept what was made for this model here; `threads` are those that it may take."""
        crop = self.loaded.input.crop
        return artefact_key(self.loaded.version, self._card.dtype, (self.cap, 3, crop, crop), self._device, threads)

    def proof_key(self, threads: int) -> str:
        """The same for its proof, which is one of the forward that answers."""
        key = self.artefact_key(threads)
        return f"{key}-{self._package[:12]}" if self._package else key

    def state(self, base: ModelState, verdict: Verdict, report: Report | None = None) -> ModelState:
        """What front ends are told of this model; name, state and detail are `base`'s."""
        loaded = self.loaded
        return msgspec.structs.replace(
            base,
            version=loaded.version,
            seal=loaded.seal,
            input=loaded.input.model_dump(),
            labels=loaded.labels,
            batch_sizes=self.sizes,
            tuning=self.tuning,
            tuned=self._tuned,
            cuda_graphs=self.cuda_graphs,
            memory_bytes=loaded.memory,
            card=self._card.model_dump(mode="json", exclude_none=True),
            report=report,
            verdict=verdict,
        )


def _apart(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest difference, as a share of the first one's largest output."""
    return distance(expected, found) / (float(expected[0].abs().max()) or 1.0)


def _cap(card: Card, device: torch.device, tuned: Tuned | None) -> int:
    """The largest batch; who is not known to be indifferent to company runs alone."""
    if "batch-invariant" in card.proof.waive:
        return 1
    stated = card.batching.max_batch_size
    if tuned:
        return min(tuned.tuning.cap, stated or tuned.tuning.cap)
    return stated or DEFAULT_CAP[device.type]


def tuning_key(loaded: LoadedModel, device: torch.device, threads: int) -> str:
    """Under which a tuning is kept: that of the artefact, but of a model whose cap is not known yet."""
    crop = loaded.input.crop
    return artefact_key(loaded.version, "", (3, crop, crop), device, threads)
