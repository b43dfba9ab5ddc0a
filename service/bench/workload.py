"""The job of the bare loop and every peer: the server's own decoder, forward and answer for a picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.flop_counter import FlopCounterMode

from service.bench.choice import seen_by
from service.engine.model import ServedModel
from service.loader.compilers import load_package
from service.loader.load import load
from service.loader.repository import find_models
from service.loader.resolved import resolved_input
from service.loader.tuning import Tuned, Tuning
from service.settings import Settings
from service.signature import Signature
from service.tasks.catalogue import INPUTS, TASKS, side
from service.tasks.inputs.input import Input
from service.tasks.outputs.answer import Output

MAX_PIXELS = 50_000_000
#: Tells a peer's workers their job: a `WorkloadSpec` as JSON.
VARIABLE = "GRADLESS_BENCH_JOB"


class WorkloadSpec(msgspec.Struct, frozen=True):
    """A model, its memory format, its intra-op threads and its largest batch.

    `package` is the compiled package that the server answers with; empty where it answers eager.
    """

    models: str
    name: str
    memory_format: str
    threads: int
    cap: int
    device: str = "cpu"
    package: str = ""

    @property
    def forwards(self) -> list[str]:
        """Return the forwards of the bare loop: the one that people write comes first, the server's last."""
        eager = [f"eager, {name}" for name in ("contiguous_format", self.memory_format)]
        return list(dict.fromkeys([*eager, *(["compiled"] if self.package else [])]))

    @classmethod
    def from_environment(cls) -> WorkloadSpec:
        return msgspec.json.decode(os.environ[VARIABLE], type=cls)

    def environment(self) -> dict[str, str]:
        return {VARIABLE: msgspec.json.encode(self).decode()}


def workload_spec(settings: Settings, models: Path, shown: dict[str, Any]) -> WorkloadSpec:
    """Return the workload of a model as a server shows it at `/models/{model}`."""
    device = settings.first_device(torch.cuda.is_available())
    verdict = shown.get("optimization") or {}
    package = ""
    if verdict.get("state") == "compiled":
        package = str(settings.cache / "compiled" / verdict["package"])
    largest = shown["batch_sizes"][-1]
    return WorkloadSpec(str(models), shown["name"], shown["memory_format"], shown["threads"], largest, device, package)


def decoder(spec: WorkloadSpec) -> Callable[[bytes], Sequence[npt.NDArray[Any]]]:
    """Return what makes of a body the arrays of its one example, as the server does, without loading the model."""
    folder = find_models(Path(spec.models))[spec.name]
    kind = folder.card.input_kind
    seen = seen_by(Path(spec.models), spec.name)
    about = resolved_input(folder).model_dump() if kind == "picture" else {}
    reader: Input = side(INPUTS[kind].input)(about, Signature(tuple(folder.card.input_specs)), MAX_PIXELS)

    def decode(body: bytes) -> Sequence[npt.NDArray[Any]]:
        given = reader.read(seen.content_type, body, 1)
        if kind == "picture":
            return reader.decode(given.items[0])
        return [array[0] for array in given.items[0]]

    return decode


def flops(spec: WorkloadSpec) -> float:
    """Count the floating-point operations of one example's forward: torch counts products and convolutions."""
    folder = find_models(Path(spec.models))[spec.name]
    model = ServedModel(load(folder), torch.device("cpu"))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.run_batch(model.examples(1))
    return float(counter.get_total_flops())


class Workload:
    """A frozen model, loaded as the server loads it, in the memory format and with the threads that it measured."""

    def __init__(self, spec: WorkloadSpec) -> None:
        torch.set_num_threads(spec.threads)
        folder = find_models(Path(spec.models))[spec.name]
        tuned = Tuned(Tuning(spec.memory_format, spec.threads, spec.cap), [], 0.0, "")
        self._model = ServedModel(load(folder), torch.device(spec.device), tuned)
        self.sizes = self._model.sizes
        self.seen = seen_by(Path(spec.models), spec.name)
        self._output: Output = side(TASKS[folder.card.task].output)()
        self._wishes = self._output.agreed(self._output.wishes((), "", self._model.signature), {})
        self.decode = decoder(spec)
        self._spec = spec
        self.run(f"eager, {spec.memory_format}")

    def run(self, forward: str) -> None:
        """Answer with this one of the spec's forwards from now on."""
        if forward == "compiled":
            package = load_package(Path(self._spec.package), self._model.target())
            self._model.run_package(package)
        else:
            self._model.apply(Tuning(forward.removeprefix("eager, "), self._spec.threads))
        with torch.inference_mode():
            self._model.warm_up(self.sizes)

    def answers(self, examples: Sequence[Sequence[npt.NDArray[Any]]]) -> list[bytes]:
        """Return one JSON document for each example of a batch, as the server writes them."""
        arrays = tuple(torch.from_numpy(np.stack(column)) for column in zip(*examples, strict=True))
        with torch.inference_mode():
            found, _ = self._model.results(self._model.run_batch(arrays))
        results = [result.numpy() for result in found]
        rows = range(len(examples))
        return [
            self._output.write([each[row : row + 1] for each in results], self._model.loaded, self._wishes).body
            for row in rows
        ]
