"""From the rows that batches give to the answers that requests get."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from service.engine.batcher import Part
from service.engine.job import Delivery, Job
from service.engine.pace import Pace
from service.errors import ModelOutputInvalid
from service.loader.freeze import bytes_of
from service.wire.messages import Failure, Result, Tensors


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
        self,
        parts: Sequence[Part],
        results: Sequence[Tensor],
        faults: Mapping[int, str],
        began: float,
        seconds: float,
    ) -> list[Delivery]:
        """Add a batch's rows to the answers of its requests.

        Args:
            results: `(N, ...)` each, contiguous, on the CPU.
            faults: by row, why an example has no answer.
            began: when it was the batch's turn (CLOCK_MONOTONIC seconds).
            seconds: how long its forward took.

        Returns:
            The answers that this completes.
        """
        complete: list[Delivery] = []
        blocks = [(bytes_of(result), result.nbytes // len(result)) for result in results]
        start = 0
        for part in parts:
            stop = start + part.stop - part.start
            job: Job = part.request.payload
            job.queue_seconds = began - part.request.added
            job.forward_seconds += seconds
            if faults and (fault := next((faults[row] for row in range(start, stop) if row in faults), "")):
                complete += self.fail([part], ModelOutputInvalid.name, fault)
            else:
                job.rows.append([bytes(block[start * size : stop * size]) for block, size in blocks])
                job.done += stop - start
                if job.done == part.request.count:
                    complete.append((part.request, self._result(job)))
            start = stop
        return complete

    def _result(self, job: Job) -> Result:
        """The answer to a request behind which nothing waits."""
        rows = job.rows[0] if len(job.rows) == 1 else [b"".join(pieces) for pieces in zip(*job.rows, strict=True)]
        return Result(
            id=job.frame.id,
            tensors=Tensors.of(*rows),
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
