"""Statistics of models in Triton's form, from the metrics of every process of this server."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from service.host.memory_file import MemoryFile
from service.host.metric_memory import Collector

_PREFIX = "gradless_"


class Statistics:
    """Sums of samples, by metric, model and the one label that matters."""

    def __init__(self, sums: dict[tuple[str, str, str], float]) -> None:
        self._sums = sums

    @classmethod
    def read(cls, memory: MemoryFile) -> Statistics:
        """Read them from a server's metrics."""
        sums: dict[tuple[str, str, str], float] = defaultdict(float)
        for metric in Collector(memory).collect():
            for sample in metric.samples:
                labels = sample.labels
                kind = labels.get("stage") or ("200" if labels.get("status") == "200" else "other")
                sums[sample.name.removeprefix(_PREFIX), labels.get("model", ""), kind] += sample.value
        return cls(sums)

    def of(self, model: str) -> dict[str, Any]:
        """Return `inference_count`, `execution_count` and `inference_stats` of a model.

        An inference is an example, an execution a batch. Metrics do not tell the times of failures apart: the time of
        all requests is that of the successful ones here.
        """
        ok, failed = (int(self._sums["requests_total", model, kind]) for kind in ("200", "other"))
        seconds = self._sums["request_duration_seconds_sum", model, "other"]
        stages = {
            "queue": "queue",
            "compute_input": "collate",
            "compute_infer": "forward",
            "compute_output": "postprocess",
        }
        return {
            "inference_count": int(self._sums["batch_size_sum", model, "other"]),
            "execution_count": int(self._sums["batch_size_count", model, "other"]),
            "inference_stats": {
                "success": _duration(ok, seconds),
                "fail": _duration(failed, 0.0),
                **{name: self._stage(model, stage) for name, stage in stages.items()},
            },
            "batch_stats": [],
        }

    def _stage(self, model: str, stage: str) -> dict[str, int]:
        count = self._sums["stage_duration_seconds_count", model, stage]
        return _duration(int(count), self._sums["stage_duration_seconds_sum", model, stage])


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": int(seconds * 1e9)}
