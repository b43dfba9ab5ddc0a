"""What is made once for a model on a machine, and kept: for now how it runs fastest, and the report of its full proof.

A file's name is the artefact key: it changes with anything that could change what the file says.
"""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import msgspec
import structlog
import torch
import torchvision

import service
from service.loader.report import Record

log = structlog.get_logger()

_CPU_INFO = Path("/proc/cpuinfo")


def artefact_key(version: str, dtype: str, shape: tuple[int, ...], device: torch.device, *options: object) -> str:
    """32 hex digits of SHA-256 over the model's version, what it computes in and on, and what computes it."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    parts = (version, dtype, shape, service.__version__, torch.__version__, torchvision.__version__, kind)
    digest = hashlib.sha256()
    for part in (*parts, cpu_features(), *options):
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()[:32]


def cpu_features() -> str:
    """What this machine's processor can do, in words that differ where kernels may: machine, model and flags."""
    try:
        first = _CPU_INFO.read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return " ".join([platform.machine(), *(line for line in first if line.startswith(wanted))])


class Records:
    """The records of models whose full proof was passed, in a folder; one that cannot be written keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "proofs"

    def read(self, key: str) -> Record | None:
        """The record under a key, or None: then all is to be measured and proven."""
        try:
            record = msgspec.json.decode((self._folder / f"{key}.json").read_bytes(), type=Record)
        except (OSError, msgspec.MsgspecError):
            return None
        return record if record.report.passed else None

    def write(self, key: str, record: Record) -> None:
        """Keep a record; whole or not at all, whoever else writes."""
        file = self._folder / f"{key}.json"
        partial = file.with_suffix(f".{os.getpid()}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial.write_bytes(msgspec.json.encode(record))
            partial.replace(file)
        except OSError as error:
            words = "each start runs the whole proof; set --cache to a folder that can be written"
            log.warning("proof not kept", file=str(file), error=error.strerror, then=words)
