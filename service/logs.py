"""Logs: JSON lines in a container, colours on a terminal. No body and no key is ever logged."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from typing import Any, NoReturn

import structlog

from service.host.log_writer import LAST_LINES_SECONDS, STDERR
from service.settings import Settings


def configure_logs(settings: Settings) -> None:
    """Send structlog's and the standard library's records (uvicorn's, torch's), and warnings, the same way, to stderr.

    Nothing waits for stderr's reader: not a log line, and not what is printed. What is printed to stdout goes to stderr
    too: a model's `print` must not wait for a reader either. Out of reach: native code that writes to the descriptors.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level.upper()),
        cache_logger_on_first_use=True,
    )
    terminal = os.isatty(STDERR.descriptor)
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )

    def notice(dropped: int) -> bytes:
        event: Any = {"event": "log lines dropped", "count": dropped}
        for process in (*shared, *last):
            event = process(None, "warning", event)
        return f"{event}\n".encode()

    STDERR.start(notice)
    atexit.register(flush_logs)
    _leave_to_root(sys.stderr)
    sys.stdout, sys.stderr = STDERR.stream(), STDERR.stream()
    handler = logging.StreamHandler(STDERR.stream())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    logging.captureWarnings(True)


def _leave_to_root(stderr: object) -> None:
    """Take from libraries' loggers, torch's above all, the handlers that write to stderr themselves."""
    for logger in logging.root.manager.loggerDict.values():
        if not isinstance(logger, logging.Logger) or stderr is None:
            continue
        for handler in [each for each in logger.handlers if getattr(each, "stream", None) is stderr]:
            logger.removeHandler(handler)
            logger.propagate = True


def flush_logs() -> None:
    """Wait until the lines logged so far are written, or for LAST_LINES_SECONDS if standard error is stuck."""
    STDERR.flush(LAST_LINES_SECONDS)


def end_process(code: int) -> NoReturn:
    """End this process at once, without waiting for threads, but after its last log lines."""
    flush_logs()
    os._exit(code)  # noqa: TID251
