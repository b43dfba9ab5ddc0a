"""What each kind of child is started with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.loader.repository import ModelFolder
from service.settings import Settings


@dataclass(frozen=True)
class EngineSpec:
    """One generation of one device's engine.

    Attributes:
        role: under which its metrics are kept; one living process a role.
        socket: where front ends reach it.
        aboard: the file that tells who was in its forward when it died.
        threads: intra-op threads of its worker.
        memory_formats: by model version, what an earlier engine measured to be faster.
    """

    device: str
    number: int
    role: str
    socket: Path
    aboard: Path
    metrics: Path
    threads: int
    memory_formats: dict[str, str]
    folders: Sequence[ModelFolder]
    settings: Settings


@dataclass(frozen=True)
class FrontEndSpec:
    """One front end. `models` maps each model's name to whether it is required."""

    number: int
    default_model: str
    models: dict[str, bool]
    metrics: Path
    settings: Settings
