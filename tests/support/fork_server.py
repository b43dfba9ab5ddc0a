"""A fork server that has imported, once for all, what each child of a test would else import for itself."""

import pytest

from service.audit import fresh_process

#: A second for each child. The last one takes the imports out of what a child's garbage collector looks at.
IMPORTED = ("service.audit.mode_measurement", "service.audit.script.function_audit", "tests.support.freeze_imports")


def start_with_imports(*first: str) -> None:
    """Where this process has a fork server already, that one is left, and its children only take longer."""
    context = fresh_process._context
    set_preload = context.set_forkserver_preload
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "set_forkserver_preload", lambda names: set_preload([*names, *first, *IMPORTED]))
        fresh_process.start_fork_server()
