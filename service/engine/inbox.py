"""The queue between the event loop and the worker."""

from __future__ import annotations

import contextlib
import queue
import time

from service.engine.batcher import Batcher, Request
from service.engine.bring_up_order import BringUpOrder


class Inbox:
    """Requests, and news of them. The event loop's thread fills it, the worker's empties it.

    Args:
        batcher: gets the requests, and is told which of them are cancelled.
        order: is told which models requests wait for.
    """

    def __init__(self, batcher: Batcher, order: BringUpOrder) -> None:
        self._batcher = batcher
        self._order = order
        self._queue: queue.SimpleQueue[tuple[Request, float] | int | str] = queue.SimpleQueue()

    def submit(self, request: Request) -> None:
        """Queue a request for a model that is ready here."""
        self._queue.put((request, time.monotonic()))

    def cancel(self, request_id: int) -> None:
        """Note that nobody waits for this request any more."""
        self._queue.put(request_id)

    def want(self, model: str) -> None:
        """Note that a request waits for a model that is not ready."""
        self._queue.put(model)

    def take_in(self) -> None:
        """Hand on all that has come."""
        while not self._queue.empty():
            self._hand_on(self._queue.get_nowait())

    def wait(self, seconds: float | None) -> None:
        """Wait until something has come, for `seconds` at most if that is given, and hand it on."""
        with contextlib.suppress(queue.Empty):
            self._hand_on(self._queue.get(timeout=seconds))
            self.take_in()

    def _hand_on(self, news: tuple[Request, float] | int | str) -> None:
        if isinstance(news, tuple):
            self._batcher.add(*news)
        elif isinstance(news, int):
            self._batcher.cancel(news)
        else:
            self._order.want(news)
