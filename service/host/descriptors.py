"""Standard input, output and error: open, encoded as UTF-8, and never waiting for a reader."""

from __future__ import annotations

import io
import os
import stat
import sys


def fill_standard_descriptors() -> None:
    """Open /dev/null for each closed descriptor of 0, 1 and 2, in this process and its children.

    Otherwise the next file or socket gets that number, and log lines are written into it. Python sets the file of a
    closed descriptor to None; it is replaced too, because `print(file=None)` writes to standard output.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def print_in_utf8() -> None:
    """Make print write UTF-8 whatever the locale, but to a terminal of another encoding, or one of PYTHONIOENCODING.

    A label that these do not have is escaped. A byte of a file name that is not UTF-8 is printed as it is.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if "PYTHONIOENCODING" in os.environ or (stream.isatty() and stream.encoding != "ascii"):
            stream.reconfigure(errors="backslashreplace" if stream.errors == "strict" else stream.errors)
        else:
            stream.reconfigure(encoding="utf-8", errors="surrogateescape" if stream is sys.stdout else stream.errors)


def detach_standard_error() -> int:
    """Return a copy of descriptor 2 for log lines, and let what native code writes to 2 itself never wait.

    Decoders tell there what is odd about a picture, in the thread that decodes it. A pipe or a terminal is opened anew,
    non-blocking, since its flags are shared with other processes. Where that is not allowed (a pipe that another user
    made, a socket), what native code writes is lost.
    """
    copy = os.dup(2)
    if not stat.S_ISREG(os.fstat(2).st_mode):
        try:
            own = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            own = os.open(os.devnull, os.O_WRONLY)
        os.dup2(own, 2)
        os.close(own)
    return copy
