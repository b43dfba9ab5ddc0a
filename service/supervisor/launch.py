"""Where each child starts. A child imports its own room and no other; the supervisor imports none of them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from multiprocessing.connection import Connection

from service.wire.specs import CompilerSpec, EngineSpec, FrontEndSpec


def run_engine(control: socket.socket, spec: EngineSpec) -> None:
    from service.engine.process import main

    main(control, spec)


def run_front_end(control: socket.socket, listeners: Sequence[socket.socket], spec: FrontEndSpec) -> None:
    from service.frontend.app import main

    main(control, listeners, spec)


def run_compiler(control: socket.socket, spec: CompilerSpec) -> None:
    from service.compiler.process import main

    main(control, spec)


def list_cuda_devices(answer: Connection) -> None:
    """Runs in a throw-away child: asking CUDA anything leaves a context behind in the process that asks."""
    import torch

    answer.send_bytes(",".join(f"cuda:{n}" for n in range(torch.cuda.device_count())).encode())
