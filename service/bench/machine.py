"""What a result was measured on and when: without it, a figure says nothing."""

from __future__ import annotations

import datetime
import platform
import subprocess
from pathlib import Path

import psutil
import torch

import service
from service.cores import usable_cores
from service.loader.artefact import cpu_features


def machine() -> dict[str, str]:
    """Processor, memory and what computes on it, in words."""
    memory = psutil.virtual_memory().total / 2**30
    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    model = next((line.partition(":")[2].strip() for line in cpu_features().split("model name")[1:]), "")
    return {
        "processor": model.split(" flags")[0] or platform.machine(),
        "cores": str(usable_cores()),
        "memory": f"{memory:.0f} GiB",
        "gpu": ", ".join(gpus) or "none",
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }


def now() -> str:
    """The minute, UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def commit() -> str:
    """What is measured: the commit of the tree, with a + when it has changes; the version outside git."""
    here = Path(service.__file__).parents[1]
    try:
        asked = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return service.__version__
