"""The memory limit, read from folders that look like /sys/fs/cgroup."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from service.host import memory_limit
from service.host.memory_limit import MemoryLimit, read_memory_limit

GIGABYTE = 10**9


def make_v2(folder: Path, limit: object, usage: int = GIGABYTE, inactive: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon {usage - inactive}\ninactive_file {inactive}\nactive_file 0\n")


def make_v1(folder: Path, limit: int, usage: int = GIGABYTE, inactive: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"inactive_file 0\ntotal_inactive_file {inactive}\n")


@pytest.fixture
def read(tmp_path):
    """Reads with these lines as /proc/self/cgroup."""
    (tmp_path / "mount").mkdir()

    def read(*lines: str) -> MemoryLimit | None:
        (tmp_path / "own").write_text("".join(f"{line}\n" for line in lines))
        return read_memory_limit(tmp_path / "mount", tmp_path / "own")

    return read


def test_a_container_sees_its_own_cgroup_at_the_root(read, tmp_path):
    make_v2(tmp_path / "mount", 4 * GIGABYTE)
    assert read("0::/") == MemoryLimit("v2", 4 * GIGABYTE, GIGABYTE)


def test_page_cache_that_can_be_dropped_is_not_usage(read, tmp_path):
    make_v2(tmp_path / "mount", 4 * GIGABYTE, usage=3 * GIGABYTE, inactive=2 * GIGABYTE)
    assert read("0::/") == MemoryLimit("v2", 4 * GIGABYTE, GIGABYTE)


def test_the_tightest_of_the_cgroups_above_counts_with_its_own_usage(read, tmp_path):
    make_v2(tmp_path / "mount" / "pod" / "container", "max", usage=1)
    make_v2(tmp_path / "mount" / "pod", 2 * GIGABYTE, usage=2)
    make_v2(tmp_path / "mount", 8 * GIGABYTE, usage=3)
    assert read("0::/pod/container") == MemoryLimit("v2", 2 * GIGABYTE, 2)


def test_without_a_limit_there_is_none(read, tmp_path):
    make_v2(tmp_path / "mount" / "user.slice", "max")
    assert read("0::/user.slice") is None


def test_v1_says_no_limit_with_a_large_number(read, tmp_path):
    make_v1(tmp_path / "mount" / "memory", 9223372036854771712)
    assert read("4:memory:/", "0::/") is None


def test_v1_is_read_where_its_memory_controller_is(read, tmp_path):
    (tmp_path / "mount" / "unified").mkdir()
    make_v1(tmp_path / "mount" / "memory", 9223372036854771712)
    make_v1(tmp_path / "mount" / "memory" / "job", 2 * GIGABYTE, usage=GIGABYTE, inactive=1000)
    assert read("4:cpu,memory:/job", "0::/") == MemoryLimit("v1", 2 * GIGABYTE, GIGABYTE - 1000)


def test_a_v1_container_that_is_named_as_the_host_names_it_is_found_at_the_root(read, tmp_path):
    make_v1(tmp_path / "mount" / "memory", 2 * GIGABYTE)
    assert read("4:memory:/docker/0123abcd") == MemoryLimit("v1", 2 * GIGABYTE, GIGABYTE)


def test_a_path_that_leads_out_of_the_mount_is_not_followed(read, tmp_path):
    make_v2(tmp_path, GIGABYTE)
    make_v2(tmp_path / "mount", 4 * GIGABYTE)
    assert read("0::/../..") == MemoryLimit("v2", 4 * GIGABYTE, GIGABYTE)


def test_where_there_are_no_cgroups_there_is_no_limit(tmp_path):
    assert read_memory_limit(tmp_path / "mount", tmp_path / "own") is None


@pytest.mark.parametrize("found", [None, MemoryLimit("v2", 4, 3)])
def test_the_gauges_have_samples_only_where_there_is_a_limit(monkeypatch, found):
    monkeypatch.setattr(memory_limit, "read_memory_limit", lambda: found)
    registry = CollectorRegistry()
    gauges = [Gauge(name, "words", ["cgroup"], registry=registry) for name in ("limit", "usage")]
    memory_limit.sample_limit(*gauges)
    samples = [registry.get_sample_value(name, {"cgroup": "v2"}) for name in ("limit", "usage")]
    assert samples == ([4, 3] if found else [None, None])
