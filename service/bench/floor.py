"""What any server has to do before its first answer, timed: the start of ours is measured against it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import service
from service.bench.job import Order

_FLOOR = """\
import sys
from pathlib import Path
import torch, torchvision
from service.loader.load import load
from service.loader.repository import find_models
models, name = sys.argv[1:]
folder = find_models(Path(models))[name]
loaded = load(folder)
crop = loaded.input.crop
with torch.inference_mode():
    loaded.module(torch.zeros(1, 3, crop, crop, dtype=getattr(torch, folder.card.dtype)))
"""


def floor_seconds(order: Order) -> float:
    """What any server has to do before its first answer: import torch and torchvision, load, one forward."""
    began = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(Path(service.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", _FLOOR, order.models, order.name], check=True, env=environment, timeout=300)
    return time.perf_counter() - began
