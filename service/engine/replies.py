"""From the rows that batches give to the answers that requests get."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from service.engine.batcher import Part
from service.engine.job import Delivery, Job
from service.engine.pace import Pace
from service.errors import ModelOutputInvalid
from service.wire.messages import Failure, Result

Rows = np.ndarray[Any, Any]

#: A probability that a model computes itself may be a rounding error above 1.
MOST_PROBABLE = 1.001


class Replies:
    """Puts the examples of a request, which may have been in several batches, together again.

    Args:
        pace: what an answer says of the time that examples take.
        cancel: called with the id of a request that has its answer already, so that the rest of it need not run.
    """

    def __init__(self, pace: Pace, cancel: Callable[[int], None]) -> None:
        self._pace = pace
        self._cancel = cancel

    def add(
        self, parts: Sequence[Part], probabilities: Rows, ids: Rows, began: float, seconds: float
    ) -> list[Delivery]:
        """Add a batch's rows to the answers of its requests.

        Args:
            probabilities, ids: `(N, k)`, the best classes of each example, in order.
            began: when it was the batch's turn (CLOCK_MONOTONIC seconds).
            seconds: how long its forward took.

        Returns:
            The answers that this completes.
        """
        complete: list[Delivery] = []
        row = 0
        for part in parts:
            rows = slice(row, row + part.stop - part.start)
            row = rows.stop
            job: Job = part.request.payload
            job.queue_seconds = began - part.request.added
            job.forward_seconds += seconds
            complete += self._add_part(part, job, probabilities[rows], ids[rows])
        return complete

    def _add_part(self, part: Part, job: Job, probabilities: Rows, ids: Rows) -> list[Delivery]:
        for best in probabilities[:, 0].tolist():
            if not 0 <= best <= MOST_PROBABLE:
                return self.fail([part], ModelOutputInvalid.name, _no_probability(best))
        k = min(job.frame.top_k, probabilities.shape[1])
        job.probabilities.append(probabilities[:, :k].tobytes())
        job.ids.append(ids[:, :k].tobytes())
        job.done += part.stop - part.start
        return [] if job.done < part.request.count else [(part.request, self._result(job, k))]

    def _result(self, job: Job, k: int) -> Result:
        """The answer to a request behind which nothing waits."""
        return Result(
            id=job.frame.id,
            k=k,
            probabilities=b"".join(job.probabilities),
            ids=b"".join(job.ids),
            queue_seconds=job.queue_seconds,
            forward_seconds=job.forward_seconds,
            backlog_seconds=0.0,
            example_seconds=self._pace.example_seconds(job.frame.model),
        )

    def fail(self, parts: Sequence[Part], error: str, detail: str) -> list[Delivery]:
        """Answer the requests of these parts with a refusal; the rest of them need not run."""
        for part in parts:
            self._cancel(part.request.id)
        return [(part.request, Failure(part.request.id, error, detail)) for part in parts]


def _no_probability(value: float) -> str:
    """Describe a row's highest probability. One NaN, or under softmax an infinite score, makes it NaN."""
    if math.isnan(value):
        return "The model returned NaN for this input."
    return f"The model returned {value:.3g} for this input where its card promises a probability, from 0 to 1."
