"""Figures in words."""

from service.audit.figures import megabytes


def test_sizes_are_told_in_powers_of_ten():
    assert [megabytes(size) for size in (None, 0, 999, 8192, 177_470_720, 2 * 10**9)] == [
        *("-", "0 B", "999 B", "8.19 KB", "177 MB", "2 GB")
    ]
