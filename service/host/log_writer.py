"""Writes log lines to standard error from a thread of its own: a reader that stops must not stop the process.

The standard library's `QueueHandler` and `QueueListener` do not fit: a full queue makes them write a traceback to the
very stderr that is stuck, and their end waits for it without a limit.
"""

from __future__ import annotations

import io
import os
import queue
import select
import threading
from collections.abc import Callable
from typing import TextIO

#: Most lines that may wait. A front end logs about a thousand requests a second, so a reader may pause for seconds.
MOST_LINES = 5_000
#: Most bytes that may wait, small enough for sizing to ignore: 5,000 access lines are 1 MB, tracebacks the rest.
MOST_BYTES = 2 * 1024 * 1024
#: A process that ends waits at most this long for its last lines to be written.
LAST_LINES_SECONDS = 1.0


class _Gap:
    """Stands in the queue where lines were dropped."""

    lines = 0


class LogWriter:
    """Takes lines from any thread without waiting, and writes them to a descriptor in their order.

    Lines that find the queue full, or cannot be written, are dropped and counted. When writing goes on, a notice says
    how many are missing, at the place where they are missing.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._thread: threading.Thread | None = None
        # Reentrant, as SimpleQueue is: a finalizer may log while its thread is in `put`.
        self._lock = threading.RLock()
        self._queue: queue.SimpleQueue[bytes | _Gap | threading.Event] = queue.SimpleQueue()
        self._bytes = 0
        self._gap: _Gap | None = None
        self._unannounced = 0
        self._torn = False
        self._dropped = 0
        self._dropped_more: queue.SimpleQueue[None] = queue.SimpleQueue()

    def start(self, notice: Callable[[int], bytes]) -> None:
        """Start the thread; in each process after its fork. `notice` makes a line of the number of dropped lines."""
        self._notice = notice
        if not self._thread:
            self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
            self._thread.start()

    def put(self, text: bytes) -> None:
        """Queue whole lines, or drop them and count them."""
        with self._lock:
            if self._queue.qsize() < MOST_LINES and self._bytes + len(text) <= MOST_BYTES:
                self._gap = None
                self._bytes += len(text)
                self._queue.put(text)
                return
            if not self._gap:
                self._gap = _Gap()
                self._queue.put(self._gap)
            self._gap.lines += text.count(b"\n")
            self._count(text)

    def flush(self, seconds: float) -> bool:
        """Wait until everything queued so far is written or dropped; False if that takes longer than `seconds`."""
        done = threading.Event()
        self._queue.put(done)
        return self._thread is None or done.wait(seconds)

    def tell_drops(self, count: Callable[[int], object]) -> None:
        """Call `count` with the number of dropped lines, now for those so far and then whenever there are more.

        It is called in a thread of its own. The writer's may be stuck; and a thread that logs may hold, through a
        finalizer, the very lock that `count` takes.
        """
        if self._thread:  # nothing is ever queued where logs are not configured
            threading.Thread(target=self._tell, args=(count,), name="dropped log lines", daemon=True).start()

    def stream(self) -> TextIO:
        """Return a text file for `sys.stderr`, or a log handler, that writes through this writer, a line at a time."""
        return io.TextIOWrapper(_Raw(self), "utf-8", "backslashreplace", line_buffering=True)  # type: ignore[type-var]

    def _count(self, lost: bytes) -> None:
        with self._lock:
            self._dropped += lost.count(b"\n")
        if self._dropped_more.empty():
            self._dropped_more.put(None)

    def _tell(self, count: Callable[[int], object]) -> None:
        told = 0
        while True:
            self._dropped_more.get()
            dropped = self._dropped
            count(dropped - told)
            told = dropped

    def _run(self) -> None:
        """Write lines in chunks of up to PIPE_BUF, which a pipe keeps whole: processes that share it do not mix lines.

        Beside a busy thread this one gets the interpreter lock every few milliseconds. With 2,000 lines a second, 4,000
        lines waited at a line a write, and 32 in chunks.
        """
        chunk = b""
        while True:
            item = self._take(wait=not chunk)
            if isinstance(item, bytes) and len(chunk) + len(item) <= select.PIPE_BUF:
                chunk += item
                continue
            self._write(chunk)
            chunk = item if isinstance(item, bytes) else b""
            if isinstance(item, _Gap):
                self._end_gap(item)
            elif isinstance(item, threading.Event):
                item.set()

    def _take(self, wait: bool) -> bytes | _Gap | threading.Event | None:
        try:
            item = self._queue.get(wait)
        except queue.Empty:
            return None
        if isinstance(item, bytes):
            with self._lock:
                self._bytes -= len(item)
        return item

    def _end_gap(self, gap: _Gap) -> None:
        with self._lock:
            if self._gap is gap:
                self._gap = None
        self._unannounced += gap.lines
        self._write(b"")

    def _write(self, chunk: bytes) -> None:
        """Write what is owed of notices, then the chunk; what cannot be written is dropped."""
        if self._unannounced and not self._send(self._notice(self._unannounced)):
            self._unannounced = 0
        if lost := self._send(chunk):
            self._unannounced += lost.count(b"\n")
            self._count(lost)

    def _send(self, data: bytes) -> bytes:
        """Write to the descriptor; returns what could not be written."""
        left = b"\n" + data if self._torn and data else data
        whole = True
        try:
            while left:
                written = self._write_some(left)
                whole, left = left[:written].endswith(b"\n"), left[written:]
            self._torn = False
        except OSError:  # closed, without a reader, or a full disk: only the counter can still say so
            self._torn = self._torn if whole else True
            return left[-len(data) :]
        return b""

    def _write_some(self, data: bytes) -> int:
        while True:
            try:
                return os.write(self.descriptor, data)
            except BlockingIOError:  # another process has made the shared terminal or pipe non-blocking
                writable = select.poll()
                writable.register(self.descriptor, select.POLLOUT)
                writable.poll()


class _Raw(io.RawIOBase):
    """The file beneath `LogWriter.stream`."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._writer.put(bytes(data))
        return len(data)

    def fileno(self) -> int:
        return self._writer.descriptor

    def isatty(self) -> bool:
        return os.isatty(self._writer.descriptor)


#: The one writer of a process, as it has one standard error; idle until `service.logs.configure_logs`.
STDERR = LogWriter(2)
