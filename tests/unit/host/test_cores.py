"""The cores that a quota leaves, read from folders that look like /sys/fs/cgroup."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.host.cores import usable_cores


@pytest.fixture(autouse=True)
def eight(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.fixture
def cores(tmp_path):
    """The cores there are with these files, by path."""

    def cores(**files: str) -> int:
        (tmp_path / "mount" / "cpu").mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / "mount" / name.replace("__", "/").replace("cpu_", "cpu.")).write_text(text + "\n")
        (tmp_path / "own").write_text("3:cpu,cpuacct:/\n0::/\n")
        return usable_cores(tmp_path / "mount", tmp_path / "own")

    return cores


def quota_at(folder: Path, *texts: str) -> None:
    """Write a quota of v2, which is one text, or of v1, which is two."""
    folder.mkdir(parents=True, exist_ok=True)
    files = ["cpu.max"] if len(texts) == 1 else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    for file, text in zip(files, texts, strict=True):
        (folder / file).write_text(f"{text}\n")


@pytest.fixture
def at(tmp_path):
    """The cores there are with these lines as /proc/self/cgroup."""

    def at(*lines: str) -> int:
        (tmp_path / "own").write_text("".join(f"{line}\n" for line in lines))
        return usable_cores(tmp_path / "mount", tmp_path / "own")

    return at


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("10000 100000", 1),
        ("6400000 100000", 8),
        ("max 100000", 8),
    ],
)
def test_a_quota_of_v2_leaves_as_many_cores_as_it_pays_for(cores, quota, expected):
    assert cores(cpu_max=quota) == expected


@pytest.mark.parametrize(("quota", "expected"), [("200000", 2), ("300000", 3), ("-1", 8)])
def test_a_quota_of_v1_does_too(cores, quota, expected):
    assert cores(cpu__cpu_cfs_quota_us=quota, cpu__cpu_cfs_period_us="100000") == expected


def test_without_a_quota_the_affinity_counts(cores):
    assert cores() == 8


def test_a_quota_of_the_own_cgroup_alone_counts(at, tmp_path):
    """As systemd's CPUQuota= sets it."""
    quota_at(tmp_path / "mount" / "system.slice" / "gradless.service", "50000 100000")
    quota_at(tmp_path / "mount" / "system.slice", "max 100000")
    assert at("0::/system.slice/gradless.service") == 1


def test_the_least_quota_of_all_cgroups_above_counts(at, tmp_path):
    quota_at(tmp_path / "mount" / "pod" / "container", "600000 100000")
    quota_at(tmp_path / "mount" / "pod", "300000 100000")
    quota_at(tmp_path / "mount", "500000 100000")
    assert at("0::/pod/container") == 3


def test_a_quota_beside_the_own_cgroup_does_not_count(at, tmp_path):
    quota_at(tmp_path / "mount" / "other", "100000 100000")
    assert at("0::/pod") == 8


@pytest.mark.parametrize("name", ["cpu", "cpu,cpuacct"])
def test_v1_has_a_hierarchy_for_its_cpu_controller(at, tmp_path, name):
    (tmp_path / "mount" / "unified").mkdir(parents=True)
    quota_at(tmp_path / "mount" / name / "job", "200000", "100000")
    quota_at(tmp_path / "mount" / name, "-1", "100000")
    assert at("5:memory:/", "4:cpu,cpuacct:/job", "1:name=systemd:/", "0::/") == 2


def test_a_v1_container_that_is_named_as_the_host_names_it_is_found_at_the_root(at, tmp_path):
    quota_at(tmp_path / "mount" / "cpu", "200000", "100000")
    assert at("4:cpu,cpuacct:/docker/0123abcd") == 2


@pytest.mark.parametrize("text", ["", "100000", "100000 0", "many 100000"])
def test_a_quota_that_makes_no_sense_is_none(at, tmp_path, text):
    quota_at(tmp_path / "mount", text)
    assert at("0::/") == 8


def test_where_there_are_no_cgroups_the_affinity_counts(tmp_path):
    assert usable_cores(tmp_path / "mount", tmp_path / "own") == 8
