"""What each kind of child is started with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from service.loader.report import Tuning
from service.loader.repository import ModelFolder
from service.settings import Settings


class ExitCode(IntEnum):
    """How an engine ends itself when it catches its model, or its device is lost to it.

    The names are the causes that metrics and logs show.
    """

    VIOLATION = 70
    SEAL_BROKEN = 71
    DEVICE_LOST = 72

    @property
    def cause(self) -> str:
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True)
class EngineSpec:
    """One generation of one device's engine.

    Attributes:
        role: under which its metrics are kept; one living process a role.
        socket: where front ends reach it.
        aboard: the file that tells who was in its forward when it died.
        temporary: its TMPDIR, wiped when it is gone.
        threads: intra-op threads of its worker.
        tunings: by model version, what an earlier engine measured to be fastest.
    """

    device: str
    number: int
    role: str
    socket: Path
    aboard: Path
    temporary: Path
    metrics: Path
    threads: int
    tunings: dict[str, Tuning]
    folders: Sequence[ModelFolder]
    settings: Settings


@dataclass(frozen=True)
class CompilerSpec:
    """What a child compiles, for a device; the rest as in `EngineSpec`."""

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
    metrics: Path
    settings: Settings
