"""The FastAPI application that people write: PIL, torchvision's transforms, a forward inside the handler.

The model is eval and frozen, and the forward under `no_grad`: it is right, and does one request at a time.
Argument: port. The job is in the environment.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from service.bench.workload import WorkloadSpec
from service.loader.load import load
from service.loader.repository import find_models
from service.loader.resolved import resolved_input
from service.tasks.adapters.flattening import scores_of


def main() -> None:
    spec = WorkloadSpec.from_environment()
    folder = find_models(Path(spec.models))[spec.name]
    loaded = load(folder)
    model, seen, labels = loaded.module, resolved_input(folder), loaded.answer["labels"]
    cropped = [v2.CenterCrop(seen.crop)] if seen.crop else []
    grey = [] if len(seen.mean) == 3 else [v2.Grayscale()]
    preprocess = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize(seen.resize, interpolation=InterpolationMode(seen.interpolation), antialias=True),
            *cropped,
            *grey,
            v2.ToDtype(torch.float32),
            v2.Normalize(seen.mean, seen.std),
            v2.ToDtype(getattr(torch, folder.card.dtype)),
        ]
    )
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        picture = Image.open(io.BytesIO(await request.body())).convert("RGB")
        with torch.no_grad():
            scores = scores_of(model(preprocess(picture).unsqueeze(0)))
        best = torch.softmax(scores, dim=1)[0].topk(min(5, len(labels)))
        classes = [
            {"id": number, "label": labels[number], "probability": probability}
            for probability, number in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        return {"model": spec.name, "version": loaded.version, "predictions": [{"classes": classes}]}

    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
