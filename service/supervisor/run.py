"""One run of the server, from its start to its end: the parts of a supervisor share it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.host.memory_file import MemoryFile
from service.metrics import Metrics
from service.settings import Settings
from service.supervisor.processes import ForkServer
from service.wire.messages import Frame


@dataclass(frozen=True)
class Run:
    """One run of the server.

    Attributes:
        folder: holds sockets, and the temporary files of children.
        memory: where every process keeps its metrics.
        metrics: the supervisor's own.
        spawn: runs a task in the background.
        broadcast: sends a frame to every front end.
    """

    settings: Settings
    folder: Path
    fork_server: ForkServer
    memory: MemoryFile
    metrics: Metrics
    spawn: Callable[[Coroutine[Any, Any, None]], object]
    broadcast: Callable[[Frame], None]
