"""The order of bringing models up: first those that requests wait for, then the default one, then as in the cards."""

from __future__ import annotations

from collections.abc import Iterable


class BringUpOrder:
    """The models that are not brought up yet. A pure object."""

    def __init__(self, names: Iterable[str], default: str) -> None:
        self._waiting = sorted(names, key=lambda name: name != default)
        self._wanted: list[str] = []

    def want(self, name: str) -> None:
        """Note that a request waits for this model; nothing changes if it is not waiting to be brought up."""
        if name in self._waiting and name not in self._wanted:
            self._wanted.append(name)

    def next(self) -> str | None:
        """The model to bring up now; None when there is none left."""
        return next(iter([*self._wanted, *self._waiting]), None)

    def gives_way(self, name: str) -> bool:
        """Tell whether requests wait for other models, and not for this one."""
        return bool(self._wanted) and name not in self._wanted

    def done(self, name: str) -> None:
        self._waiting.remove(name)
        if name in self._wanted:
            self._wanted.remove(name)
