"""What the bare loop and every peer do for a picture: the server's own decoder, forward and answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from service.engine.model import ServedModel
from service.loader.compilers import load_package
from service.loader.load import load
from service.loader.report import Tuned, Tuning
from service.loader.repository import find_models
from service.loader.weights import resolved_input
from service.settings import Settings
from service.tasks.classification import ImageDecoder, best_classes

MAX_PIXELS = 50_000_000
TOP_K = 5
#: How a peer's workers learn their job: an `Order` as JSON.
VARIABLE = "GRADLESS_BENCH_JOB"


class Order(msgspec.Struct, frozen=True):
    """Which model, in which memory format, with how many intra-op threads, in batches of at most `cap`.

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
        """What the bare loop runs, the eager forward that people write first and what the server runs last."""
        eager = [f"eager, {name}" for name in ("contiguous_format", self.memory_format)]
        return list(dict.fromkeys([*eager, *(["compiled"] if self.package else [])]))

    @classmethod
    def from_environment(cls) -> Order:
        return msgspec.json.decode(os.environ[VARIABLE], type=cls)

    def environment(self) -> dict[str, str]:
        return {VARIABLE: msgspec.json.encode(self).decode()}


def job_order(settings: Settings, models: Path, shown: dict[str, Any]) -> Order:
    """The job of a model as a server shows it at `/models/{model}`: in its memory format, up to its largest batch."""
    device = settings.first_device(torch.cuda.is_available())
    verdict = shown.get("optimization") or {}
    package = ""
    if verdict.get("state") == "compiled":
        package = str(settings.cache.expanduser() / "compiled" / verdict["package"])
    largest = shown["batch_sizes"][-1]
    return Order(str(models), shown["name"], shown["memory_format"], shown["threads"], largest, device, package)


def decoder(order: Order) -> Callable[[bytes], Tensor]:
    """From a picture file to `(3, crop, crop) uint8`, for a model that need not be loaded."""
    return ImageDecoder(resolved_input(find_models(Path(order.models))[order.name]), MAX_PIXELS).decode


def flops(order: Order) -> float:
    """Floating-point operations of one example's forward, as torch counts those of products and convolutions."""
    folder = find_models(Path(order.models))[order.name]
    model = ServedModel(load(folder), folder.card, torch.device("cpu"))
    side = model.loaded.input.crop
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.run_batch(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    return float(counter.get_total_flops())


class Job:
    """A frozen model, loaded as the server loads it, in the memory format and with the threads that it measured."""

    def __init__(self, order: Order) -> None:
        torch.set_num_threads(order.threads)
        folder = find_models(Path(order.models))[order.name]
        tuned = Tuned(Tuning(order.memory_format, order.threads, order.cap), [], 0.0, "")
        self._model = ServedModel(load(folder), folder.card, torch.device(order.device), tuned)
        self.sizes = self._model.sizes
        self.crop = self._model.loaded.input.crop
        self.decode = decoder(order)
        self._order = order
        self.run(f"eager, {order.memory_format}")

    def run(self, forward: str) -> None:
        """Answer with this one of the order's forwards from now on."""
        if forward == "compiled":
            package = load_package(Path(self._order.package), self._model.target())
            self._model.run_package(package, "measured")
        else:
            self._model.run_eager()
            self._model.apply(Tuning(forward.removeprefix("eager, "), self._order.threads))
        with torch.inference_mode():
            self._model.warm_up(self.sizes)

    def answers(self, pictures: Sequence[Tensor]) -> list[bytes]:
        """One JSON document for each picture of a batch, as the server writes them."""
        with torch.inference_mode():
            probabilities, ids = best_classes(self._model.run_batch(torch.stack(list(pictures))), TOP_K)
        rows = zip(probabilities.tolist(), ids.tolist(), strict=True)
        return [self._written(row, classes) for row, classes in rows]

    def _written(self, probabilities: list[float], ids: list[int]) -> bytes:
        labels = self._model.loaded.labels
        classes = [
            {"id": number, "label": labels[number], "probability": probability}
            for number, probability in zip(ids, probabilities, strict=True)
        ]
        loaded = self._model.loaded
        answer = {"model": loaded.name, "version": loaded.version, "predictions": [{"classes": classes}]}
        return msgspec.json.encode(answer)
