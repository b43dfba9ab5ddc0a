"""Memory that processes share and that has no path: no cleaner removes it, and no full disk takes it away."""

from __future__ import annotations

import errno
import os
import weakref
from multiprocessing import reduction

#: Python 3.11 lacks the name. Since Linux 6.3 an administrator may forbid memory that could be executed.
_MFD_NOEXEC_SEAL = 0x0008


class MemoryFile:
    """A memory file, memfd_create(2), which lives until the last process that holds it lets it go.

    A child has it from its supervisor, as an argument of what it is started with.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.close = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def create(cls, name: str) -> MemoryFile:
        """Make an empty one; its name is what `/proc` shows.

        Raises:
            OSError: the kernel has no memory or no descriptor left.
        """
        try:
            return cls(os.memfd_create(name, os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return cls(os.memfd_create(name))  # an older kernel

    def __reduce__(self) -> tuple[object, ...]:
        return _received, (reduction.DupFd(self.descriptor),)


def _received(handed: reduction.DupFd) -> MemoryFile:  # type: ignore[valid-type]
    return MemoryFile(handed.detach())  # type: ignore[attr-defined]
