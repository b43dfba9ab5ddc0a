"""A child has the memory that its supervisor made, and nothing of it stays behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
from pathlib import Path

from service.host.memory_file import MemoryFile


def write(file: MemoryFile) -> None:
    os.pwrite(file.descriptor, b"from the child", 0)


def test_a_child_writes_to_the_memory_that_it_is_handed():
    file = MemoryFile.create("gradless-test")
    child = multiprocessing.get_context("spawn").Process(target=write, args=(file,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert os.pread(file.descriptor, 100, 0) == b"from the child"


def held() -> int:
    """Descriptors of such memory in this process."""
    links = [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return sum(str(link).startswith("/memfd:gradless-closed") for link in links)


def test_its_descriptor_is_closed_once_by_hand_or_with_the_last_reference():
    file, other = MemoryFile.create("gradless-closed"), MemoryFile.create("gradless-closed")
    assert held() == 2
    file.close()
    file.close()
    assert held() == 1
    del other
    gc.collect()
    assert held() == 0
