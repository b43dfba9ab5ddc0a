"""mosec: a worker that decodes and one that answers in batches as large as ours, as its guides have it.

Arguments: those of mosec. The job is in the environment.
"""

from __future__ import annotations

from typing import Any

import mosec

from service.bench.job import Job, Order, decoder


class Decode(mosec.Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self._decode = decoder(Order.from_environment())

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> Any:
        return self._decode(data)


class Answer(mosec.Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self._job = Job(Order.from_environment())

    def forward(self, data: list[Any]) -> list[bytes]:
        return self._job.answers(data)

    def serialize(self, data: bytes) -> bytes:
        return data


def main() -> None:
    server = mosec.Server()
    server.append_worker(Decode, num=1)
    server.append_worker(Answer, num=1, max_batch_size=Order.from_environment().cap, max_wait_time=5)
    server.run()


if __name__ == "__main__":
    main()
