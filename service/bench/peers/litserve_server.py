"""LitServe: base64 in JSON as in its guides, batches as large as ours, 5 ms of waiting for company, of arrays none.

Argument: port. The job is in the environment.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import litserve

from service.bench.choice import seen_by
from service.bench.workload import Workload, WorkloadSpec


class OneAPI(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self._workload = Workload(WorkloadSpec.from_environment())

    def decode_request(self, request: dict[str, str]) -> Any:
        return self._workload.decode(base64.b64decode(request["body"]))

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, inputs: list[Any]) -> list[bytes]:
        return self._workload.answers(inputs)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Any:
        return json.loads(output)


def main() -> None:
    spec = WorkloadSpec.from_environment()
    seen = seen_by(Path(spec.models), spec.name)
    api = OneAPI(max_batch_size=spec.cap, batch_timeout=0.005 if seen.side else 0.0)
    accelerator = spec.device.partition(":")[0]
    server = litserve.LitServer(api, accelerator=accelerator, workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
