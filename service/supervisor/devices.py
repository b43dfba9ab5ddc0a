"""The devices that the setting `device` means on this machine."""

from __future__ import annotations

import asyncio
import multiprocessing

from service.errors import ConfigurationError
from service.supervisor.launch import list_cuda_devices
from service.supervisor.processes import ForkServer


async def resolve_devices(wanted: str, fork_server: ForkServer) -> list[str]:
    """`cpu`, or `cuda:0`, `cuda:1`, …; `auto` is every GPU or else the CPU, `cuda` every GPU.

    Raises:
        ConfigurationError: a device is not there, or the words are none.
    """
    if wanted == "cpu":
        return ["cpu"]
    there = await _cuda_devices(fork_server)
    if wanted == "auto":
        return there or ["cpu"]
    named = there if wanted == "cuda" else [name.strip() for name in wanted.split(",")]
    missing = [name for name in named if name not in (*there, "cpu")]
    if missing or not named:
        have = ", ".join(["cpu", *there])
        words = f"{', '.join(missing) or wanted} is not there"
        raise ConfigurationError.at("settings", "device", words, f"this machine has {have}; or say auto")
    return list(dict.fromkeys(named))


async def _cuda_devices(fork_server: ForkServer) -> list[str]:
    receiving, sending = multiprocessing.Pipe(duplex=False)
    with receiving:
        with sending:
            process = await fork_server.start(list_cuda_devices, sending)
        try:
            answer = await asyncio.get_running_loop().run_in_executor(None, receiving.recv_bytes)
        except EOFError:  # it died asking: the driver is broken
            return []
        finally:
            await asyncio.get_running_loop().run_in_executor(None, process.join, 5.0)
    return [name for name in answer.decode().split(",") if name]
