"""Memory is allocated before it is written to; a sample that found none is shown once there is some."""

from __future__ import annotations

import os
from threading import Thread

import pytest

from service.host import metric_memory
from service.host.metric_memory import make_metric_memory, tables_of, value_class


@pytest.fixture
def memory():
    return make_metric_memory()


def counter(tables, name="c", dropped=lambda: None):
    return value_class(tables, dropped)("counter", name, f"{name}_total", [], [], "Words.")


@pytest.fixture
def fullness(monkeypatch):
    """While it holds something, no memory can be allocated."""
    full: list[bool] = []
    allocate = os.posix_fallocate

    def refuse(*args):
        if full:
            raise OSError(28, "No space left on device")
        allocate(*args)

    monkeypatch.setattr(metric_memory.os, "posix_fallocate", refuse)
    return full


def test_a_sample_that_found_no_memory_is_shown_with_all_it_counted_once_there_is_some(memory, fullness):
    tables, drops = tables_of(memory, "engine-a"), []
    fullness.append(True)
    value = counter(tables, dropped=lambda: drops.append(1))
    value.inc(2)
    assert drops == [1]
    assert metric_memory.Collector(memory).collect() == []
    fullness.clear()
    value.inc(3)
    [metric] = metric_memory.Collector(memory).collect()
    assert [sample.value for sample in metric.samples] == [5]


def test_every_byte_of_a_table_that_is_in_use_is_allocated(memory):
    tables = tables_of(memory, "engine-a")
    for number in range(2000):
        counter(tables, f"c{number}")
    table = tables["counter"]
    held = os.lseek(memory.descriptor, table._offset, os.SEEK_HOLE) - table._offset
    assert metric_memory._STEP_BYTES < table._used <= held


def test_nothing_is_counted_twice_or_lost_by_threads(memory):
    value = counter(tables_of(memory, "engine-a"))

    def count():
        for _ in range(20_000):
            value.inc(1)

    threads = [Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value.get() == 80_000


def test_each_role_has_one_area_however_often_it_comes(memory):
    for role in ("supervisor", "frontend-0", "engine-cpu-a", "frontend-0", "engine-cpu-a"):
        tables_of(memory, role)
    assert os.fstat(memory.descriptor).st_size == 3 * metric_memory._AREA_BYTES


@pytest.mark.parametrize(("kind", "mode"), [("gauge", "all"), ("gauge", "max"), ("gauge", ""), ("summary", "")])
def test_a_metric_of_a_models_own_code_may_be_of_any_kind(memory, kind, mode):
    value = value_class(tables_of(memory, "engine"), lambda: None)(kind, "own", "own", [], [], "Words.", mode)
    value.inc(2)
    assert value.get() == 2
