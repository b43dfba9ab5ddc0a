"""Work in a fresh child process, whose memory and modes nothing has touched yet."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from service.errors import ConfigurationError

#: A child that takes longer hangs; the largest models take a tenth of it.
CHILD_SECONDS = 300.0

#: For the fork server and so for all children. numpy's import would start threads, which no fork survives. And a thread
#: that waits for another one sleeps: while something else had one of two cores, waiting in a loop made a forward of
#: resnet18 take 0.9 to 4.0 s, sleeping 0.21.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

_context = multiprocessing.get_context("forkserver")


class answering:  # noqa: N801 (it is used as `with answering(…)`)
    """Give a child the function that sends its answer. A ConfigurationError is sent too, and raised in the parent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> Callable[..., None]:
        return lambda answer: self._connection.send(("answer", answer))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, ConfigurationError):
            self._connection.send(("problems", error.problems))
        return isinstance(error, ConfigurationError)


def in_child(target: Callable[..., None], *args: Any, raw: bool = False) -> Any:
    """Run a function in a fresh process, and return its answer. Its first argument is the connection for the answer.

    Raises:
        ConfigurationError: what the child found wrong, or it died, or hung.
    """
    start_fork_server()
    receiving, sending = _context.Pipe(duplex=False)
    process = _context.Process(target=target, args=(sending, *args), daemon=True)
    with receiving:
        process.start()
        sending.close()
        try:
            if not receiving.poll(CHILD_SECONDS):
                raise ConfigurationError([f"audit: the model took over {CHILD_SECONDS:g} s; try a smaller batch"])
            answer = receiving.recv_bytes() if raw else _unpacked(receiving.recv())
            process.join(10)
            return answer
        except EOFError:
            process.join(10)
            raise ConfigurationError([_death(process.exitcode)]) from None
        finally:
            process.kill()
            process.join()
            process.close()


def start_fork_server() -> None:
    """Start a process that imports torch, so that a child starts in milliseconds; it ends with this one.

    It imports in parallel with its caller: a caller that imports torch too calls this first.
    """
    _context.set_forkserver_preload(["service.host.vision"])
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _unpacked(message: tuple[str, Any]) -> Any:
    kind, content = message
    if kind == "problems":
        raise ConfigurationError(content)
    return content


def _death(code: int | None) -> str:
    """Say how a child ended: by a signal, most often the kernel's for want of memory, or after a traceback."""
    if code is not None and code < 0:
        return f"audit: its process was ended by signal {-code}; if that is 9, try a smaller --batch-size"
    return "audit: its process ended early; what it raised is above"
