"""The line of the script that is running, as seen from inside torch."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import NamedTuple


class Line(NamedTuple):
    """A place in a user's code; line 0 is unknown."""

    file: str
    number: int


UNKNOWN = Line("", 0)


class Lines:
    """Finds the innermost frame of a script: a file in or below its folder that is not an installed package."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._known: dict[str, bool] = {}

    def here(self) -> Line:
        """Return the line that runs in this thread; UNKNOWN if none of the script is on the stack."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if self.is_script(frame.f_code.co_filename):
                return Line(frame.f_code.co_filename, frame.f_lineno)
            frame = frame.f_back
        return UNKNOWN

    def switching(self) -> Line:
        """Return the line that enters a grad mode: a `with` of the script's, or its function under such a decorator.

        What torch does within itself (an optimizer's step runs under no_grad) is not a pitfall.
        """
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and Path(frame.f_code.co_filename).parent == _HERE:
            frame = frame.f_back
        while frame is not None and frame.f_code.co_filename.endswith(("_contextlib.py", "contextlib.py", "mock.py")):
            if decorated := getattr(frame.f_locals.get("func"), "__code__", None):
                named = Line(decorated.co_filename, decorated.co_firstlineno)
                return named if self.is_script(named.file) else UNKNOWN
            frame = frame.f_back
        if frame is None or not self.is_script(frame.f_code.co_filename):
            return UNKNOWN
        return Line(frame.f_code.co_filename, frame.f_lineno)

    def blamed(self, frames: list[tuple[str, int]]) -> Line:
        """Return the script's innermost frame in a traceback."""
        mine = [Line(file, number) for file, number in frames if self.is_script(file)]
        return mine[-1] if mine else UNKNOWN

    def is_script(self, file: str) -> bool:
        if file not in self._known:
            path = Path(file)
            inside = path.is_file() and path.resolve().is_relative_to(self._folder)
            self._known[file] = inside and "site-packages" not in path.parts and _SERVICE not in path.resolve().parents
        return self._known[file]


_HERE = Path(__file__).parent
_SERVICE = Path(__file__).resolve().parents[2]
