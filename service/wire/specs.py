"""Arguments of each kind of child."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from service.host.memory_file import MemoryFile
from service.loader.repository import Catalogue, ModelFolder
from service.loader.tuning import Tuning
from service.settings import Settings


class ExitCode(IntEnum):
    """Exit codes of an engine that catches its model breaking a rule, or loses its device.

    Metrics and logs show the names as causes.
    """

    VIOLATION = 70
    SEAL_BROKEN = 71
    DEVICE_LOST = 72

    @property
    def cause(self) -> str:
        return self.name.lower().replace("_", "-")


#: Causes of an engine's end that are counted from the start. Others, such as another signal, appear with their first.
CAUSES = (
    *(code.cause for code in ExitCode),
    *("SIGKILL", "SIGTERM", "SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"),
    *("watchdog", "exit 1", "unknown"),
)


@dataclass(frozen=True)
class WorkerSpec:
    """The models that a worker serves, and the means.

    Attributes:
        device: where its models run.
        threads: its intra-op threads.
        tunings: by model version, what an earlier engine of this server measured to be fastest.
        models: what it serves.
    """

    device: str
    threads: int
    tunings: dict[str, Tuning]
    models: Catalogue
    settings: Settings


@dataclass(frozen=True)
class EngineSpec(WorkerSpec):
    """One generation of one device's engine: its worker, and what the process around that needs.

    Attributes:
        role: under which its metrics are kept; one living process a role.
        socket: where front ends reach it, in the folder of this run.
        aboard: the file that tells which requests were in its forward when it died.
        temporary: its TMPDIR, wiped when it is gone.
    """

    number: int
    role: str
    socket: Path
    aboard: MemoryFile
    temporary: Path
    metrics: MemoryFile


@dataclass(frozen=True)
class CompilerSpec:
    """Arguments of a compiler; fields that it shares with `EngineSpec` mean the same."""

    device: str
    temporary: Path
    threads: int
    tunings: dict[str, Tuning]
    folders: Sequence[ModelFolder]
    settings: Settings


@dataclass(frozen=True)
class FrontEndSpec:
    """One front end.

    Attributes:
        number: its place; one that replaces it has the same.
        start: counts every start of any front end, so that no two ever give a request the same id.
        models: each model's name, and whether it is required.
    """

    number: int
    start: int
    default_model: str
    models: dict[str, bool]
    metrics: MemoryFile
    settings: Settings
