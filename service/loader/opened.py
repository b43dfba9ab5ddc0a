"""Files of a model's folder that are opened while it is loaded: a model's answers depend on them too."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_watched: list[tuple[str, set[Path]]] = []
_hooks: list[object] = []


@contextlib.contextmanager
def watch_opened(folder: Path) -> Iterator[set[Path]]:
    """Collect every file below the folder that Python opens to read inside, in whatever way.

    An audit hook is the one place that all of `open`, `Path.read_text` and `torch.load` pass. It cannot be taken out
    again; outside of this it asks one question of each event.
    """
    if not _hooks:
        _hooks.append(_heard)
        sys.addaudithook(_heard)
    watch: tuple[str, set[Path]] = (f"{folder}{os.sep}", set())
    _watched.append(watch)
    try:
        yield watch[1]
    finally:
        _watched.remove(watch)


def _heard(event: str, arguments: tuple[object, ...]) -> None:
    if not _watched or event != "open":
        return
    name, _, flags = arguments
    if not isinstance(name, str | bytes | os.PathLike) or not isinstance(flags, int):
        return
    if flags & os.O_ACCMODE != os.O_RDONLY:
        return
    path = os.path.abspath(os.fsdecode(name))  # noqa: PTH100 (`Path.absolute` keeps what is `..`)
    for folder, found in _watched:
        if path.startswith(folder):
            found.add(Path(path))
