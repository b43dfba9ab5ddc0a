"""Records made once for a model on a machine and kept: its fastest tuning, and the report of its full proof.

A file's name is the artefact key: it changes with anything that could change what the file says.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog
import torch

import service
from service.host.vision import torchvision
from service.loader.report import Report
from service.loader.tuning import Tuned, Tuning
from service.signature import TensorSpec, said_of_shape

log = structlog.get_logger()

_CPU_INFO = Path("/proc/cpuinfo")


def artefact_key(version: str, dtype: str, shape: tuple[object, ...], device: torch.device, *options: object) -> str:
    """32 hex digits of SHA-256 over the model's version, what it computes in and on, and what computes it."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    versions = (service.__version__, torch.__version__, torchvision.__version__, _version_of("openvino"))
    parts = (version, dtype, shape, *versions, kind)
    digest = hashlib.sha256()
    for part in (*parts, cpu_features(), *options):
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()[:32]


def _version_of(package: str) -> str:
    """Return the version of an optional package; empty if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def cpu_features() -> str:
    """Describe the processor by machine, model and flags: two descriptions differ where kernels may."""
    try:
        first = _CPU_INFO.read_text("utf-8", "replace").split("\n\n", 1)[0].split("\n")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return " ".join([platform.machine(), *(line for line in first if line.startswith(wanted))])


class Record(msgspec.Struct, frozen=True):
    """Findings about a model on a machine, kept for the next start: its fastest tuning, and its full proof."""

    tuning: Tuning
    report: Report


class Records:
    """Records in a folder: for each key a full proof that passed, and a tuning; for each version its outputs."""

    def __init__(self, folder: Path) -> None:
        self._proofs, self._tunings, self._outputs = folder / "proofs", folder / "tunings", folder / "outputs"

    def same_outputs(self, version: str, outputs: tuple[TensorSpec, ...]) -> str:
        """Compare outputs that were found with those of an earlier start, or keep them for later ones.

        Returns:
            What an earlier start found, in words, if it was something else; empty if not.
        """
        file = self._outputs / f"{version}.json"
        before = read_struct(file, tuple[TensorSpec, ...])
        if before is None:
            with contextlib.suppress(OSError):  # a later start has nothing to compare with, and says nothing
                write_struct(file, outputs)
        elif before != outputs:
            return ", ".join(f"{spec.name} ({said_of_shape(spec.dtype, spec.shape)})" for spec in before)
        return ""

    def read(self, key: str) -> Record | None:
        """Return the record under a key; None means that everything has to be measured and proven."""
        record = read_struct(self._proofs / f"{key}.json", Record)
        return record if record and record.report.passed else None

    def read_tuning(self, key: str) -> Tuning | None:
        """Return the tuning that was fastest when the model was proven, or None."""
        record = self.read(key)
        return record.tuning if record else None

    def write(self, key: str, record: Record) -> None:
        """Keep a record. If it cannot be written, log why."""
        file = self._proofs / f"{key}.json"
        try:
            write_struct(file, record)
        except OSError as error:
            if error.errno == errno.EROFS:  # usual in a container
                log.info("proof not kept", cache="read-only", then="each start runs the whole proof")
                return
            words = "each start runs the whole proof; set --cache to a folder that can be written"
            log.warning("proof not kept", file=str(file), error=error.strerror, then=words)

    def read_tuned(self, key: str) -> Tuned | None:
        """Return the result of `gradless bench --tune`, or None."""
        return read_struct(self._tunings / f"{key}.json", Tuned)

    def write_tuned(self, key: str, tuned: Tuned) -> Path:
        """Keep a tuning for the next start, in the file that is returned.

        Raises:
            OSError: it cannot be written.
        """
        file = self._tunings / f"{key}.json"
        write_struct(file, tuned)
        return file


Kept = TypeVar("Kept")


def read_struct(file: Path, kind: type[Kept]) -> Kept | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def write_struct(file: Path, content: object) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(file, msgspec.json.encode(content))


def write_whole(file: Path, content: bytes) -> None:
    """Write a file atomically, readable by its owner alone, because its content decides what runs."""
    partial = file.with_suffix(f".{os.getpid()}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(content)
        partial.replace(file)
    except OSError:  # leave nothing behind on a full disk
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
