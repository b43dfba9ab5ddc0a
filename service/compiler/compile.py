"""Compile a model, compare the package with the eager forward, measure both, and decide which one answers.

`gradless compile` does this ahead of serving; a server does it in the background, in a child of low priority.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from service.engine.cache_keys import package_key, tuning_key
from service.engine.forwards import on_device
from service.engine.measure import Stopwatch, layouts
from service.engine.model import ServedModel
from service.loader.artefact import Records
from service.loader.comparison import apart, distance
from service.loader.compiled import Arrays, CannotCompileError, Package, Target, bits, export
from service.loader.compilers import COMPILERS, Compiler
from service.loader.load import load
from service.loader.packages import Packages, ruled_out
from service.loader.proof import tolerance_of
from service.loader.repository import ModelFolder
from service.loader.tuning import Tuning
from service.loader.verdict import Candidate, Verdict

#: A package answers only if it takes at most this share of eager's time, over all batch sizes.
WORTH_IT = 0.98
#: Turns that candidates take, and forwards of each size per turn. All are slow beside a busy server.
TURNS, FORWARDS = 2, 3


@dataclass(frozen=True)
class Place:
    """The target of compiling: the device, the threads that a forward may use, and the cache."""

    device: torch.device
    threads: int
    cache: Path


@dataclass(frozen=True)
class Judged:
    """A model's verdict. `version` is what was compiled."""

    model: str
    version: str
    verdict: Verdict


def compile_model(
    folder: ModelFolder,
    place: Place,
    tunings: Mapping[str, Tuning],
    thorough: bool = False,
    anew: bool = False,
) -> Judged:
    """Build the packages of a model and keep the one that wins; the verdict says which, or why none does.

    Args:
        tunings: by version, how its eager forward is known to be fastest.
        thorough: try everything that could win.
        anew: build although there is a verdict.

    Raises:
        ConfigurationError: the model cannot be loaded.
    """
    packages, records = Packages(place.cache), Records(place.cache)
    loaded = load(folder)
    if never := ruled_out(folder.card):
        return Judged(folder.name, loaded.version, never)
    tuned = records.read_tuned(tuning_key(loaded, place.device, place.threads))
    model = ServedModel(loaded, place.device, tuned)
    if why := packages.writable():
        return Judged(folder.name, loaded.version, Verdict("unsafe-cache", why))
    key = package_key(model, place.threads)
    with packages.building(), tempfile.TemporaryDirectory(prefix="gradless-compile-") as work:
        able, missing = _able(model.target(), thorough)
        if (known := packages.read(key)) and not anew and {each.name for each in able} <= {*known.compilers}:
            return Judged(folder.name, loaded.version, known)
        began = time.perf_counter()
        Stopwatch(model).tune(tunings.get(loaded.version) or records.read_tuning(key), place.threads)
        try:
            if not able:
                raise CannotCompileError("no-compiler", "; ".join(missing))
            verdict, winner = _judge(model, able, missing, Path(work))
        except CannotCompileError as error:
            verdict, winner = Verdict(error.state, str(error), model.tuning), None
        made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        verdict = msgspec.structs.replace(
            verdict,
            compilers=[compiler.name for compiler in able],
            build_seconds=time.perf_counter() - began,
            made=made,
        )
        if verdict.state != "no-compiler":  # it may be installed later
            verdict = packages.write(key, verdict, winner)
    return Judged(folder.name, loaded.version, verdict)


def _able(target: Target, thorough: bool) -> tuple[list[Compiler], list[str]]:
    """Return the compilers that can be used here, and why others cannot."""
    able, missing = [], []
    for compiler in COMPILERS:
        if compiler.thorough and not thorough:
            continue
        try:
            compiler.need(target)
            able.append(compiler)
        except CannotCompileError as error:
            missing.append(str(error))
    return able, list(dict.fromkeys(missing))


@dataclass(frozen=True)
class Built:
    """A package, its candidate's name and its file."""

    name: str
    file: Path
    package: Package


def _build(model: ServedModel, able: list[Compiler], work: Path) -> tuple[list[Built], list[str]]:
    """Build a package with each compiler that does not refuse; return them, and why others refuse.

    Raises:
        CannotCompileError: all refuse.
    """
    target = model.target()
    program = export(model.adapter, on_device(model.examples(min(2, model.cap)), model.device), target)
    built: list[Built] = []
    refused: list[CannotCompileError] = []
    for compiler in able:
        file = work / f"{len(built)}{compiler.suffix}"
        try:
            compiler.build(program, file, target)
            built.append(Built(compiler.name, file, compiler.load(file, target)))
        except CannotCompileError as error:
            refused.append(error)
        except Exception as error:  # an incomplete library, or another release of it
            refused.append(CannotCompileError.because("failed", compiler.name, error))
    if not built:
        raise CannotCompileError(refused[0].state, "; ".join(map(str, refused)))
    return built, [str(error) for error in refused]


def _judge(model: ServedModel, able: list[Compiler], missing: list[str], work: Path) -> tuple[Verdict, Path | None]:
    """Return the verdict, and the file of the package that answers if one does; `missing` says why some were not tried.

    Raises:
        CannotCompileError: there is no package, or its answers differ.
    """
    built, refused = _build(model, able, work)
    made_up, real = model.examples(model.cap), model.adapter.preparation.real_examples(model.cap)
    inputs = made_up if real is None else tuple(torch.cat(pair) for pair in zip(made_up, real, strict=True))
    eager = model.tuning
    others = [name for name in layouts(model) if name != eager.memory_format]
    timings = {f"eager, {name}": Stopwatch(model).times(Tuning(name, eager.threads)) for name in others}
    model.apply(eager)
    with torch.inference_mode():
        agreements: dict[str, Agreement] = {}
        for one in built:
            try:
                agreements[one.name] = agreement(model, one.package, inputs)
            except Exception as error:  # of its forward
                refused.append(str(CannotCompileError.because("failed", one.name, error)))
        agreeing = [name for name, found in agreements.items() if found.difference <= tolerance_of(model.module)]
        right = [one for one in built if one.name in agreeing]
        refused += [_differs(name, found, model) for name, found in agreements.items() if name not in agreeing]
        if not right:
            raise CannotCompileError("differs", "; ".join(refused + missing))
        timings |= race(model, {f"eager, {eager.memory_format}": None} | {one.name: one.package for one in right})
        best = min(right, key=lambda one: score(timings[one.name]))
        with model.on_trial(best.package):
            probe = bits(model.probe())
    share = score(timings[best.name]) / score(timings[f"eager, {eager.memory_format}"])
    found = agreements[best.name]
    told = f"{best.name} takes {share:.2f} of the time of the eager forward, over all batch sizes"
    verdict = Verdict(
        "compiled" if share <= WORTH_IT else "slower",
        "; ".join([told, *refused, *missing]),
        eager,
        candidates=[Candidate(name, seconds) for name, seconds in timings.items()],
        inputs=f"{_counted(made_up, real)}, at batch sizes {model.sizes}",
        difference=found.difference,
        probability_difference=found.probability_difference,
        equal_bits=found.equal_bits,
        probe=probe,
    )
    return verdict, best.file if verdict.state == "compiled" else None


@dataclass(frozen=True)
class Agreement:
    """A package beside the eager forward, at every batch size.

    Attributes:
        difference: the largest between two outputs, as a share of the largest.
        probability_difference: the largest between two probabilities.
        equal_bits: whether the package gives an example the same bits at every batch size.
    """

    difference: float
    probability_difference: float
    equal_bits: bool


def _differs(name: str, found: Agreement, model: ServedModel) -> str:
    words = f"{name} differs from eager by {found.difference:.1e} of the largest output"
    return f"{words}; {tolerance_of(model.module):.0e} is allowed"


def _counted(made_up: Arrays, real: Arrays | None) -> str:
    return f"{len(made_up[0])} made-up inputs and {len(real[0]) if real else 'no'} real ones"


def agreement(model: ServedModel, package: Package, inputs: Arrays) -> Agreement:
    """Compare both on every input, in batches of each size; in inference mode."""
    difference = probability_difference = 0.0
    by_size = []
    for size in model.sizes:
        count = len(inputs[0])
        places = range(0, count - count % size, size)
        batches = [tuple(array[start : start + size] for array in inputs) for start in places]
        eager = _outputs(model, batches)
        with model.on_trial(package):
            compiled = _outputs(model, batches)
        if not all(output.isfinite().all() for output in eager):
            raise CannotCompileError("differs", "the eager outputs are not all finite, so nothing can be held to them")
        difference = max(difference, apart(eager, compiled))
        both = [model.adapter.head.probabilities(outputs) for outputs in (eager, compiled)]
        probabilities = [[rows] for rows in both if rows is not None] or [[], []]
        probability_difference = max(probability_difference, distance(*probabilities))
        by_size.append(compiled)
    fewest = min(len(outputs[0]) for outputs in by_size)
    equal = all(
        torch.equal(output[:fewest], first[:fewest])
        for outputs in by_size
        for output, first in zip(outputs, by_size[0], strict=True)
    )
    return Agreement(difference, probability_difference, equal)


def _outputs(model: ServedModel, batches: list[Arrays]) -> Arrays:
    """Return the outputs of all batches, on the CPU."""
    found = [model.run_batch(batch) for batch in batches]
    return tuple(torch.cat([output.cpu() for output in outputs]) for outputs in zip(*found, strict=True))


def race(model: ServedModel, packages: Mapping[str, Package | None]) -> dict[str, dict[int, float]]:
    """Return the seconds of the fastest forward by candidate (None is eager) and batch size, in inference mode."""
    best: dict[str, dict[int, float]] = {name: {} for name in packages}
    for _ in range(TURNS):
        for name, package in packages.items():
            with model.on_trial(package) if package else contextlib.nullcontext():
                for size in model.sizes:
                    seconds = Stopwatch(model).best_of(size, FORWARDS)
                    best[name][size] = min(seconds, best[name].get(size, seconds))
    return best


def score(seconds: Mapping[int, float]) -> float:
    """Return the geometric mean over batch sizes: no size counts for more because it takes longer."""
    return math.exp(sum(map(math.log, seconds.values())) / len(seconds))
