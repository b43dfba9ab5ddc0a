"""What each child is started with, and where it starts. Importing this imports neither torch nor a room."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from service.settings import Settings

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from service.loader.repository import ModelFolder


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


def run_engine(control: socket.socket, spec: EngineSpec) -> None:
    from service.engine.process import main

    main(control, spec)


def run_front_end(control: socket.socket, listener: socket.socket, spec: FrontEndSpec) -> None:
    from service.frontend.app import main

    main(control, listener, spec)


def list_cuda_devices(answer: Connection) -> None:
    """Runs in a throw-away child: asking CUDA anything leaves a context behind in the process that asks."""
    import torch

    answer.send_bytes(",".join(f"cuda:{n}" for n in range(torch.cuda.device_count())).encode())
