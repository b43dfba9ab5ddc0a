"""A user that no passwd entry names, as OpenShift and `docker run --user` start a server."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys

import pytest

UID = 1_234_567


def as_stranger() -> tuple[str, ...]:
    """Return the launcher that runs a command as this user; the test is skipped where that cannot be.

    Root's home may hold the interpreter, so the stranger may read all files; it may write none but its own. access(2)
    does not know of that right, so what a command asks about first must lie where everybody may look.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with pytest.raises(KeyError):
        pwd.getpwuid(UID)
    user = (f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
    launcher = ("setpriv", *user, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    if subprocess.run([*launcher, sys.executable, "-c", ""], capture_output=True).returncode != 0:
        pytest.skip("another user cannot be given the right to read this interpreter")
    return launcher
