"""The FastAPI application that people write for arrays: numpy reads the body, a forward inside the handler.

The model is eval and frozen, and the forward under `no_grad`: it is right, and does one request at a time.
Argument: port. The job is in the environment.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from torch import Tensor

from service.bench.workload import WorkloadSpec
from service.loader.load import load
from service.loader.repository import find_models


def main() -> None:
    spec = WorkloadSpec.from_environment()
    loaded = load(find_models(Path(spec.models))[spec.name])
    names = [each.name for each in loaded.signature.inputs]
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        content = np.load(io.BytesIO(await request.body()))
        arrays = [content] if isinstance(content, np.ndarray) else [content[name] for name in names]
        with torch.no_grad():
            outputs = loaded.adapter(*map(torch.from_numpy, arrays))
        found: dict[str, Tensor] = {
            each.name: output for each, output in zip(loaded.signature.outputs, outputs, strict=True)
        }
        rows = [{"outputs": {name: output[0].tolist() for name, output in found.items()}}]
        return {"model": spec.name, "version": loaded.version, "predictions": rows}

    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
