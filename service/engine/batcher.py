"""Queues, deadlines and fairness: which examples ride in the next batch.

A pure object: no clock, no thread, no torch. Its owner hands in the time, and is the only thread that touches it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


def ladder(cap: int) -> list[int]:
    """The batch sizes used below and at a cap: the powers of two below it, and the cap.

    A shape never seen before costs a new oneDNN primitive or CUDA graph and memory that is never given
    back, so only these few are ever run.
    """
    sizes = []
    size = 1
    while size < cap:
        sizes.append(size)
        size *= 2
    return [*sizes, cap]


def halves(size: int, sizes: Sequence[int]) -> list[int]:
    """A batch's examples as two or more smaller batches, each a size of the ladder."""
    parts = []
    most = size - 1
    while size:
        rung = max(step for step in sizes if step <= min(size, most))
        parts.append(rung)
        size -= rung
    return parts


@dataclass(slots=True, eq=False)
class Request:
    """`count` examples of one caller. `payload` is the owner's; the batcher never looks at it."""

    id: int
    model: str
    count: int
    deadline: float
    added: float = 0.0
    alone: bool = False
    payload: Any = None
    taken: int = 0
    gone: bool = False


@dataclass(slots=True)
class Part:
    """Examples `start` to `stop` of a request, riding in one batch."""

    request: Request
    start: int
    stop: int


def split(parts: Sequence[Part], sizes: Sequence[int]) -> list[list[Part]]:
    """Cut parts into batches of these sizes, with every example in its order."""
    batches: list[list[Part]] = []
    rest = list(parts)
    for size in sizes:
        batch: list[Part] = []
        while size:
            part = rest.pop(0)
            stop = min(part.stop, part.start + size)
            batch.append(Part(part.request, part.start, stop))
            if stop < part.stop:
                rest.insert(0, Part(part.request, stop, part.stop))
            size -= stop - part.start
        batches.append(batch)
    return batches


@dataclass(slots=True)
class Batch:
    """Parts that run together, in order of arrival."""

    model: str
    parts: list[Part] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(part.stop - part.start for part in self.parts)


class Batcher:
    """First come, first served within a model; models take turns, one batch each.

    The unit of every cap is the example. There is no timer: `take` gives what is there, so a lone request
    never waits for company, and a queue that grew while the device was busy leaves in large batches.
    """

    def __init__(self, caps: Mapping[str, int]) -> None:
        self._caps: dict[str, int] = {}
        self._ladders: dict[str, list[int]] = {}
        self._queues: dict[str, deque[Request]] = {}
        self._turns: deque[str] = deque()
        self._by_id: dict[int, Request] = {}
        for model, cap in caps.items():
            self.open(model, cap)

    def open(self, model: str, cap: int) -> None:
        """Queue requests for one more model, in batches up to its cap."""
        self._caps[model] = cap
        self._ladders[model] = ladder(cap)
        self._queues[model] = deque()
        self._turns.append(model)

    def add(self, request: Request, now: float) -> None:
        """Queue a request.

        Raises:
            KeyError: nobody serves this model here.
        """
        request.added = now
        self._queues[request.model].append(request)
        self._by_id[request.id] = request

    def cap(self, model: str) -> int:
        """The largest batch that is formed now, in examples."""
        return self._caps[model]

    def set_cap(self, model: str, cap: int) -> None:
        """Form no larger batches from now on, or larger ones again; `cap` is a size of the ladder."""
        self._caps[model] = cap

    def cancel(self, request_id: int) -> None:
        """Its client has gone: what is not taken yet never will be."""
        if request := self._by_id.get(request_id):
            request.gone = True

    def next_size(self, model: str) -> int:
        """Return the size of the model's next batch, in examples; 0 when nothing waits."""
        return self._largest_rung(model) if self._queues[model] else 0

    def next_in_company(self, model: str) -> int:
        """Return the size of the next batch if it is this model's and need not be alone; else 0."""
        next_model = next((name for name in self._turns if self._queues[name]), None)
        return 0 if next_model != model or self._queues[model][0].alone else self._largest_rung(model)

    def depth(self, model: str) -> int:
        """Examples that wait."""
        return sum(request.count - request.taken for request in self._queues[model])

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def drop_gone(self, now: float, shortest: Mapping[str, float] = MappingProxyType({})) -> list[Request]:
        """Remove, and return, every request that is cancelled, or that cannot be answered before its deadline.

        `shortest` is by model the least time, in seconds, that a batch takes.
        """
        dropped = [
            request
            for model, queue in self._queues.items()
            for request in queue
            if request.gone or request.deadline <= now + shortest.get(model, 0.0)
        ]
        for request in dropped:
            request.gone = True
            self._queues[request.model].remove(request)
            del self._by_id[request.id]
        return dropped

    def take(self) -> Batch | None:
        """The next batch of the next model that has work; None when nothing waits."""
        for _ in range(len(self._turns)):
            model = self._turns[0]
            self._turns.rotate(-1)
            if self._queues[model]:
                return self._take_from(model)
        return None

    def _take_from(self, model: str) -> Batch:
        room = self._largest_rung(model)
        batch = Batch(model)
        queue = self._queues[model]
        while room:
            request = queue[0]
            start = request.taken
            request.taken = min(request.count, start + room)
            room -= request.taken - start
            batch.parts.append(Part(request, start, request.taken))
            if request.taken == request.count:
                queue.popleft()
                del self._by_id[request.id]
        return batch

    def _largest_rung(self, model: str) -> int:
        """Return the largest size of the ladder that the requests which may ride together fill."""
        cap = self._caps[model]
        waiting = 0
        for request in self._companions(self._queues[model]):
            waiting += request.count - request.taken
            if waiting >= cap:
                break
        return max(size for size in self._ladders[model] if size <= min(waiting, cap))

    @staticmethod
    def _companions(queue: deque[Request]) -> Iterator[Request]:
        """From the head on, up to the first that must go alone (which may be the head itself)."""
        for position, request in enumerate(queue):
            if request.alone and position:
                return
            yield request
            if request.alone:
                return
