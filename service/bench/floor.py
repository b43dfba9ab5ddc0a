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
import os, sys
import torch, torchvision
from service.bench.job import Order
from service.bench.machine import commit, machine, now
from service.loader.load import load
from service.loader.repository import find_models
from pathlib import Path
order = Order.from_environment()
loaded = load(find_models(Path(order.models))[order.name])
crop = loaded.input.crop
with torch.inference_mode():
    loaded.module(torch.zeros(1, 3, crop, crop))
"""


def floor_seconds(order: Order) -> float:
    """What any server has to do before its first answer: import torch and torchvision, load, one forward."""
    began = time.perf_counter()
    environment = os.environ | order.environment() | {"PYTHONPATH": str(Path(service.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", _FLOOR], check=True, env=environment, timeout=300)
    return time.perf_counter() - began
