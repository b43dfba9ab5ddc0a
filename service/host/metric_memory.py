"""The metrics of a server: one memory file that all its processes share.

The supervisor holds it, so what a dead process has counted stays; and it has no path, so neither a cleaner nor a full
disk can touch it. It is a row of areas, one for each role: a head with the role's name, then a table for each kind of
metric, in the layout of `prometheus_client.mmap_dict`. Tables are sparse: memory is allocated before it is written to.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import Any

import structlog
from prometheus_client import Metric
from prometheus_client.mmap_dict import _read_all_values, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from service.host.memory_file import MemoryFile

log = structlog.get_logger()

#: Kinds of metric, and how gauges of several processes become one: their sum, or the latest.
GAUGES = ("gauge_livesum", "gauge_livemostrecent")
KINDS = ("counter", "histogram", *GAUGES)
#: A head is as long as a page may be, so that tables can be mapped. A table holds some 80,000 samples.
HEAD_BYTES, TABLE_BYTES = 1 << 16, 1 << 24
_AREA_BYTES = HEAD_BYTES + len(KINDS) * TABLE_BYTES
_NAME_BYTES = 256
#: A table's memory is allocated in steps of this.
_STEP_BYTES = 1 << 14
#: A table begins with 4 bytes that say how much of it is used, these included, and padding.
_EMPTY = 8
_INTEGER = struct.Struct("i")
_PAIR = struct.Struct("dd")  # a value, and when it was set


def make_metric_memory() -> MemoryFile:
    """Make the memory of one server.

    Raises:
        OSError: the kernel has none.
    """
    return MemoryFile.create("gradless-metrics")


def _areas(memory: MemoryFile) -> range:
    return range(0, os.fstat(memory.descriptor).st_size, _AREA_BYTES)


def _name(memory: MemoryFile, area: int) -> str:
    return os.pread(memory.descriptor, _NAME_BYTES, area).rstrip(b"\0").decode()


def _area_of(memory: MemoryFile, role: str) -> int:
    """Return the offset of a role's area, and make the area if there is none.

    Raises:
        OSError: it cannot be made.
    """
    fcntl.lockf(memory.descriptor, fcntl.LOCK_EX)  # two children may begin at once
    try:
        for area in _areas(memory):
            if _name(memory, area) == role:
                return area
        end = _areas(memory).stop
        os.ftruncate(memory.descriptor, end + _AREA_BYTES)
        os.pwrite(memory.descriptor, role.encode().ljust(_NAME_BYTES, b"\0"), end)
        return end
    finally:
        fcntl.lockf(memory.descriptor, fcntl.LOCK_UN)


def _table_at(area: int, kind: str) -> int:
    return area + HEAD_BYTES + KINDS.index(kind) * TABLE_BYTES


class SampleTable:
    """The samples of one kind of metric that one process writes."""

    def __init__(self, memory: MemoryFile, offset: int) -> None:
        self._memory, self._offset = memory, offset
        self._allocated = 0
        self._map = mmap.mmap(memory.descriptor, TABLE_BYTES, offset=offset)
        self._used = max(_EMPTY, _used(memory, offset))
        self._positions: dict[str, int] = {}
        if self._used > _EMPTY and self._allocate(self._used):
            entries = _read_all_values(self._map, self._used)  # type: ignore[no-untyped-call]
            self._positions = {key: position for key, _, _, position in entries}

    def place(self, key: str) -> int:
        """Return the position of a sample; 0 if there is no memory for it."""
        if position := self._positions.get(key):
            return position
        encoded = key.encode()
        padded = encoded + b" " * (8 - (len(encoded) + 4) % 8)
        entry = _INTEGER.pack(len(encoded)) + padded + _PAIR.pack(0.0, 0.0)
        end = self._used + len(entry)
        if not self._allocate(end):
            return 0
        self._map[self._used : end] = entry
        self._used = end
        self._map[: _INTEGER.size] = _INTEGER.pack(end)
        self._positions[key] = end - _PAIR.size
        return self._positions[key]

    def _allocate(self, end: int) -> bool:
        """Allocate memory up to `end`: writing beyond it would end the process with SIGBUS."""
        if end > TABLE_BYTES:
            return False
        try:
            while self._allocated < end:
                os.posix_fallocate(self._memory.descriptor, self._offset + self._allocated, _STEP_BYTES)
                self._allocated += _STEP_BYTES
        except OSError:
            return False
        return True

    def read(self, position: int) -> tuple[float, float]:
        value, timestamp = _PAIR.unpack_from(self._map, position)
        return value, timestamp

    def write(self, position: int, value: float, timestamp: float) -> None:
        # At once: pack_into writes zeros first, which another process may read.
        self._map[position : position + _PAIR.size] = _PAIR.pack(value, timestamp)


class NoTable(SampleTable):
    """Stands in where no memory could be had."""

    def __init__(self) -> None:
        pass

    def place(self, key: str) -> int:
        return 0


def tables_of(memory: MemoryFile, role: str) -> dict[str, SampleTable]:
    """A role's tables by kind, for the one process that writes them: without the gauges of the one before it."""
    try:
        area = _area_of(memory, role)
        forget_gauges(memory, role)
        return {kind: SampleTable(memory, _table_at(area, kind)) for kind in KINDS}
    except OSError:
        return dict.fromkeys(KINDS, NoTable())


def forget_gauges(memory: MemoryFile, role: str) -> None:
    """Drop the gauges of a process that has ended: a gauge must not speak for the dead."""
    for area in _areas(memory):
        if _name(memory, area) == role:
            for kind in GAUGES:
                if _used(memory, _table_at(area, kind)):
                    os.pwrite(memory.descriptor, _INTEGER.pack(_EMPTY), _table_at(area, kind))


def _used(memory: MemoryFile, table: int) -> int:
    """Bytes of a table in use."""
    return int(_INTEGER.unpack(os.pread(memory.descriptor, _INTEGER.size, table))[0])


class Drops:
    """Says once in the log, and counts, that there was no memory for a sample."""

    def __init__(self) -> None:
        self.counter: Any = None
        self._told = False

    def __call__(self) -> None:
        if not self._told:
            self._told = True
            log.warning("metrics dropped", why="no memory for more samples", then="requests are answered all the same")
        if self.counter:
            self.counter.inc()


def _table_for(tables: Mapping[str, SampleTable], kind: str, multiprocess_mode: str) -> SampleTable:
    """Find a place for any metric: a model's own code may make one of a kind that is not ours."""
    if kind == "gauge":
        return tables.get(f"gauge_{multiprocess_mode}", tables[GAUGES[-1]])
    return tables.get(kind, NoTable())


def value_class(tables: Mapping[str, SampleTable], dropped: Callable[[], None]) -> type:
    """Return prometheus_client's `ValueClass` for a process that writes these tables.

    A sample without memory is counted in its process only, until memory is available.
    """
    lock = Lock()

    class Value:
        _multiprocess = True

        def __init__(
            self,
            kind: str,
            metric_name: str,
            name: str,
            labelnames: list[str],
            labelvalues: list[str],
            help_text: str,
            multiprocess_mode: str = "",
            **_: object,
        ) -> None:
            self._table = _table_for(tables, kind, multiprocess_mode)
            self._key = mmap_key(metric_name, name, labelnames, labelvalues, help_text)
            self._value = self._timestamp = 0.0
            with lock:
                self._position = self._table.place(self._key)
                if self._position:
                    self._value, self._timestamp = self._table.read(self._position)
            if not self._position:
                dropped()

        def inc(self, amount: float) -> None:
            with lock:
                self._write(self._value + amount, 0.0)

        def set(self, value: float, timestamp: float | None = None) -> None:
            with lock:
                self._write(value, timestamp or 0.0)

        def _write(self, value: float, timestamp: float) -> None:
            self._value, self._timestamp = value, timestamp
            if not self._position:
                self._position = self._table.place(self._key)
            if self._position:
                self._table.write(self._position, value, timestamp)

        def get(self) -> float:
            return self._value

        def set_exemplar(self, _: object) -> None:
            """Exemplars are not kept."""

        def get_exemplar(self) -> None:
            return None

    return Value


class Collector:
    """Sums of what all processes have written: prometheus_client's own sums over our memory."""

    def __init__(self, memory: MemoryFile) -> None:
        self._memory = memory

    def collect(self) -> list[Metric]:
        metrics: dict[str, Metric] = {}
        for kind, key, value, timestamp in self._samples():
            metric_name, name, labels, help_text = json.loads(key)
            metric = metrics.get(metric_name)
            if metric is None:
                typ, _, mode = kind.partition("_")
                metric = metrics[metric_name] = Metric(metric_name, help_text, typ)
                metric._multiprocess_mode = mode  # type: ignore[attr-defined]
            metric.add_sample(name, tuple(sorted(labels.items())), value, timestamp)  # type: ignore[arg-type]
        return list(MultiProcessCollector._accumulate_metrics(metrics, True))  # type: ignore[no-untyped-call]

    def _samples(self) -> Iterator[tuple[str, str, float, float]]:
        for area in _areas(self._memory):
            for kind in KINDS:
                table = _table_at(area, kind)
                if (used := _used(self._memory, table)) > _EMPTY:
                    data = os.pread(self._memory.descriptor, used, table)
                    for key, value, timestamp, _ in _read_all_values(data, used):  # type: ignore[no-untyped-call]
                        yield kind, key, value, timestamp
