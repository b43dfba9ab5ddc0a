"""The least that any server does before its first answer, timed: starts are compared with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import service
from service.bench.workload import WorkloadSpec

_FLOOR = """\
import sys
from pathlib import Path
import torch, torchvision
from service.loader.load import load
from service.loader.repository import find_models
models, name = sys.argv[1:]
folder = find_models(Path(models))[name]
loaded = load(folder)
with torch.inference_mode():
    loaded.adapter(*loaded.adapter.preparation.examples(1))
"""


def floor_seconds(spec: WorkloadSpec) -> float:
    """Time the least that any server does before its first answer: import torch and torchvision, load, one forward."""
    began = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(Path(service.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", _FLOOR, spec.models, spec.name], check=True, env=environment, timeout=300)
    return time.perf_counter() - began
