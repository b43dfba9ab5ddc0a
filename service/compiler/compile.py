"""Compile a model, hold the package against the eager forward, measure both, and say which one answers.

`gradless compile` does this ahead of serving; a server does it behind, in a child of low priority.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from service.engine.model import FORMATS, ServedModel, tuning_key
from service.loader.artefact import Records
from service.loader.compiled import CannotCompileError, export, load_package, need_compiler, package
from service.loader.load import load
from service.loader.packages import Packages, ruled_out
from service.loader.probes import probes
from service.loader.proof import distance, tolerance_of
from service.loader.report import Candidate, Tuning, Verdict
from service.loader.repository import ModelFolder

#: The package that is built, and the one that is built too where there is time: it wins a few per cent at most.
PACKAGE, THOROUGH = "aot_inductor", "aot_inductor, max-autotune"
#: A package answers only if it takes at most so much of eager's time, over all batch sizes.
WORTH_IT = 0.98
#: Candidates take turns so often, and each time run so many forwards of a size. Beside a busy server each is slow.
TURNS, FORWARDS = 2, 3


@dataclass(frozen=True)
class Place:
    """Where models are compiled, and for what: the device, the threads a forward may take, and the cache."""

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
    pictures: Callable[[ServedModel], Tensor],
    thorough: bool = False,
    anew: bool = False,
) -> Judged:
    """Build the packages of a model, keep the one that wins, and say so; or why none does.

    Args:
        tunings: by version, how its eager forward is known to be fastest.
        pictures: real inputs of a model, `(N, 3, side, side) uint8`, to hold a package against eager on.
        thorough: try max-autotune too.
        anew: build although there is a verdict.

    Raises:
        ConfigurationError: the model cannot be loaded.
    """
    packages, records = Packages(place.cache), Records(place.cache)
    loaded = load(folder)
    if never := ruled_out(folder.card):
        return Judged(folder.name, loaded.version, never)
    tuned = records.read_tuned(tuning_key(loaded, place.device, place.threads))
    model = ServedModel(loaded, folder.card, place.device, tuned)
    if why := packages.writable():
        return Judged(folder.name, loaded.version, Verdict("unsafe-cache", why))
    key = model.artefact_key(place.threads)
    with packages.building(), tempfile.TemporaryDirectory(prefix="gradless-compile-") as work:
        if (known := packages.read(key)) and not anew and (not thorough or is_thorough(known)):
            return Judged(folder.name, loaded.version, known)
        began = time.perf_counter()
        model.tune(tunings.get(loaded.version) or records.read_tuning(key), place.threads)
        try:
            need_compiler()
            verdict, winner = _judge(model, place, pictures(model), Path(work), thorough)
        except CannotCompileError as error:
            verdict, winner = Verdict(error.state, str(error), model.tuning), None
        made = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        verdict = msgspec.structs.replace(verdict, build_seconds=time.perf_counter() - began, made=made)
        if verdict.state != "no-compiler":  # it may be installed tomorrow
            verdict = packages.write(key, verdict, winner)
    return Judged(folder.name, loaded.version, verdict)


def is_thorough(verdict: Verdict) -> bool:
    """Whether all that can be tried was, or nothing can be."""
    return not verdict.candidates or THOROUGH in {candidate.name for candidate in verdict.candidates}


@dataclass(frozen=True)
class Built:
    """A package: its candidate's name, its file, and the function in it."""

    name: str
    file: Path
    forward: Callable[[Tensor], Any]


def _judge(model: ServedModel, place: Place, real: Tensor, work: Path, thorough: bool) -> tuple[Verdict, Path | None]:
    """Whether a package answers, and the file of the one that does.

    Raises:
        CannotCompileError: there is none, or they give other answers.
    """
    program = export(model.entry(), model.cap, model.loaded.input.crop, place.device)
    built: list[Built] = []
    for name in (PACKAGE, THOROUGH) if thorough else (PACKAGE,):
        file = work / f"{len(built)}.pt2"
        package(program, file, model.tuning.threads, max_autotune=name == THOROUGH)
        built.append(Built(name, file, load_package(file, place.device)))
    made_up = probes(model.cap, model.loaded.input.crop)
    eager = model.tuning
    others = [name for name in FORMATS if name != eager.memory_format]
    timings = {f"eager, {name}": model.times(Tuning(name, eager.threads)) for name in others}
    model.apply(eager)
    with torch.inference_mode():
        agreements = {one.name: agreement(model, one.forward, torch.cat([made_up, real])) for one in built}
        right = [one for one in built if agreements[one.name].difference <= tolerance_of(model.module)]
        if not right:
            closest = min(found.difference for found in agreements.values())
            words = f"it differs from eager by {closest:.1e} of the largest output; {tolerance_of(model.module):.0e} is"
            raise CannotCompileError("differs", f"{words} allowed")
        timings |= race(model, {f"eager, {eager.memory_format}": None} | {one.name: one.forward for one in right})
        best = min(right, key=lambda one: score(timings[one.name]))
        with model.on_trial(best.forward):
            probe = model.probe()
    share = score(timings[best.name]) / score(timings[f"eager, {eager.memory_format}"])
    found = agreements[best.name]
    verdict = Verdict(
        "compiled" if share <= WORTH_IT else "slower",
        f"{best.name} takes {share:.2f} of the time of the eager forward, over all batch sizes",
        eager,
        [Candidate(name, seconds) for name, seconds in timings.items()],
        f"{len(made_up)} made-up pictures and {len(real)} photographs, at batch sizes {model.sizes}",
        found.difference,
        found.probability_difference,
        found.equal_bits,
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


def agreement(model: ServedModel, forward: Callable[[Tensor], Any], inputs: Tensor) -> Agreement:
    """Run every input through both, in batches of each size; in inference mode."""
    difference = probability_difference = 0.0
    by_size = []
    for size in model.sizes:
        batches = [inputs[start : start + size] for start in range(0, len(inputs) - len(inputs) % size, size)]
        eager = torch.cat([model.run_batch(batch).float().cpu() for batch in batches])
        with model.on_trial(forward):
            compiled = torch.cat([model.run_batch(batch).float().cpu() for batch in batches])
        scale = float(eager.abs().max()) or 1.0
        if not math.isfinite(scale):
            raise CannotCompileError("differs", "the eager outputs are not all finite, so nothing can be held to them")
        difference = max(difference, distance([eager], [compiled]) / scale)
        probability_difference = max(probability_difference, distance([eager.softmax(1)], [compiled.softmax(1)]))
        by_size.append(compiled)
    fewest = min(map(len, by_size))
    equal = all(torch.equal(rows[:fewest], by_size[0][:fewest]) for rows in by_size)
    return Agreement(difference, probability_difference, equal)


def race(model: ServedModel, forwards: Mapping[str, Callable[[Tensor], Any] | None]) -> dict[str, dict[int, float]]:
    """By name and batch size the seconds of the best forward of several turns; None is eager. In inference mode."""
    best: dict[str, dict[int, float]] = {name: {} for name in forwards}
    for _ in range(TURNS):
        for name, forward in forwards.items():
            with model.on_trial(forward) if forward else contextlib.nullcontext():
                for size in model.sizes:
                    seconds = model.best_of(size, FORWARDS)
                    best[name][size] = min(seconds, best[name].get(size, seconds))
    return best


def score(seconds: Mapping[int, float]) -> float:
    """The geometric mean over batch sizes: no size counts for more because it takes longer."""
    return math.exp(sum(map(math.log, seconds.values())) / len(seconds))
