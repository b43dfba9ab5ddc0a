"""The machine, the date and the commit of a result: without them, a figure says nothing."""

from __future__ import annotations

import datetime
import platform
import subprocess
import time
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

import service
from service.host.cores import usable_cores
from service.loader.artefact import cpu_features

#: Channels of a 3 x 3 convolution, and its number of runs, of which the fastest counts.
_CHANNELS, _CONVOLUTIONS = 256, 20


def machine() -> dict[str, str]:
    """Describe processor, memory and software in words."""
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


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware computes in bfloat16 natively."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def peak_flops(device: torch.device, threads: int) -> float:
    """Return the most floating-point operations a second that a large float32 convolution gets here.

    It is what the best kernels reach, not what the data sheet says. A multiplication and an addition are two.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        convolution = nn.Conv2d(_CHANNELS, _CHANNELS, 3, bias=False, device=device)
        convolution.to(memory_format=torch.channels_last)
        images = torch.ones(4, _CHANNELS, 30, 30, device=device).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            seconds = [_seconds(convolution, images) for _ in range(_CONVOLUTIONS)]
            return float(2 * 9 * _CHANNELS * convolution(images).numel() / min(seconds))
    finally:
        torch.set_num_threads(before)


def _seconds(convolution: nn.Module, images: Tensor) -> float:
    began = time.perf_counter()
    convolution(images)[0, 0, 0, 0].item()  # which waits for a GPU
    return time.perf_counter() - began


def now() -> str:
    """Return the current minute, UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def commit() -> str:
    """Return the commit of the tree, with a + if it has changes; outside git, the version."""
    here = Path(service.__file__).parents[1]
    try:
        asked = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(asked, capture_output=True, encoding="utf-8", errors="replace", check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return service.__version__
