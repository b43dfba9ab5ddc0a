"""mosec: a worker that decodes and one that answers in batches as large as ours, as its guides have it.

Arguments: those of mosec. The job is in the environment.
"""

from __future__ import annotations

from typing import Any

import mosec

from service.bench.workload import Workload, WorkloadSpec, decoder


class DecodeWorker(mosec.Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self._decode = decoder(WorkloadSpec.from_environment())

    def deserialize(self, data: memoryview) -> bytes:
        return bytes(data)

    def forward(self, data: bytes) -> Any:
        return self._decode(data)


class AnswerWorker(mosec.Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self._workload = Workload(WorkloadSpec.from_environment())

    def forward(self, data: list[Any]) -> list[bytes]:
        return self._workload.answers(data)

    def serialize(self, data: bytes) -> bytes:
        return data


def main() -> None:
    server = mosec.Server()
    server.append_worker(DecodeWorker, num=1)
    server.append_worker(AnswerWorker, num=1, max_batch_size=WorkloadSpec.from_environment().cap, max_wait_time=5)
    server.run()


if __name__ == "__main__":
    main()
