"""The cores that a quota leaves, read from folders that look like /sys/fs/cgroup."""

from __future__ import annotations

import pytest

from service.cores import usable_cores


@pytest.fixture(autouse=True)
def eight(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.fixture
def cores(tmp_path):
    """The cores there are with these files, by path."""

    def cores(**files: str) -> int:
        (tmp_path / "cpu").mkdir()
        for name, text in files.items():
            (tmp_path / name.replace("__", "/").replace("cpu_", "cpu.")).write_text(text + "\n")
        return usable_cores(tmp_path)

    return cores


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("6400000 100000", 8), ("max 100000", 8)],
)
def test_a_quota_of_v2_leaves_as_many_cores_as_it_pays_for(cores, quota, expected):
    assert cores(cpu_max=quota) == expected


@pytest.mark.parametrize(("quota", "expected"), [("200000", 2), ("300000", 3), ("-1", 8)])
def test_a_quota_of_v1_does_too(cores, quota, expected):
    assert cores(cpu__cpu_cfs_quota_us=quota, cpu__cpu_cfs_period_us="100000") == expected


def test_without_a_quota_the_affinity_counts(cores):
    assert cores() == 8
