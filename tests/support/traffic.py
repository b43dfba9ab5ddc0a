"""Clients that never stop asking: each answer is kept, and so is everything that is no answer."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import httpx

from tests.support.models import TOLERANCE, Direct, assert_right, photographs
from tests.support.server import Server, wait_for

JPEG = {"Content-Type": "image/jpeg"}


@dataclass
class Seen:
    """One exchange: which picture, when it was answered, and how."""

    picture: int
    at: float
    response: httpx.Response


@dataclass
class Traffic:
    """Closed-loop clients in threads, one connection each; with a `pause` each rests so many seconds after an answer.

    A connection that is refused was never accepted (the listener has closed), so it ends its client quietly;
    anything else that is no answer is an error.
    """

    server: Server
    clients: int
    pause: float = 0.0
    answers: list[Seen] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        photographs()  # once, and not by each client
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(n,)) for n in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _client(self, number: int) -> None:
        with httpx.Client(timeout=60) as session:
            picture = number
            while not self._stop.is_set():
                picture = (picture + 1) % len(photographs())
                try:
                    response = session.post(f"{self.server.url}/predict", content=photographs()[picture], headers=JPEG)
                except httpx.ConnectError:
                    return
                except httpx.HTTPError as error:
                    self.errors.append(error)
                    return
                self.answers.append(Seen(picture, time.monotonic(), response))
                if self.pause:
                    self._stop.wait(self.pause)

    def wait_for_answers(self, more: int, limit: float = 60) -> None:
        """Until so many more have come; the traffic is then known to flow."""
        wanted = len(self.answers) + more
        wait_for(lambda: len(self.answers) >= wanted, limit, f"{more} more answers")

    def wait_for_answer_after(self, moment: float, limit: float = 30) -> float:
        """When the first answer came after a moment, in seconds from it."""
        return (
            wait_for(lambda: min((s.at for s in list(self.answers) if s.at > moment), default=0.0), limit, "an answer")
            - moment
        )

    def assert_all_right(self, model: Direct, tolerance: float = TOLERANCE) -> None:
        assert self.errors == []
        assert self.answers
        for seen in self.answers:
            assert seen.response.status_code == 200, seen.response.text
            assert_right(seen.response.json(), model, photographs()[seen.picture], tolerance=tolerance)
