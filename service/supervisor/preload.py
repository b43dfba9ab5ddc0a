"""Imports of the fork server before it forks any child: third-party modules, and the one for torchvision.

A child then starts in milliseconds instead of seconds, shares these pages, and carries no room but its own.
The fork server does nothing else: no thread, no CUDA call.
"""

from __future__ import annotations

import gc
import importlib
import signal

import setproctitle

setproctitle.setproctitle("gradless: fork server")
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})

for module in (
    "fastapi.middleware.cors",
    "fastapi_offline",
    "msgspec",
    "numpy",
    "PIL.Image",
    "prometheus_client.multiprocess",
    "pydantic_settings",
    "safetensors.torch",
    "structlog",
    "torch",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
    "service.host.vision",
):
    importlib.import_module(module)

gc.collect()
gc.freeze()  # the children's collections then leave these pages shared
