"""Comparison of a generation of engines with the one before it."""

from __future__ import annotations

from collections.abc import Sequence

from service.wire.messages import ModelState


def faults(before: Sequence[ModelState], after: Sequence[ModelState]) -> list[str]:
    """Return a line for each model that must be ready and is not.

    That is a required one and one that was ready. A model that had failed before, and still does, is no reason to
    hold back what else has changed.
    """
    was_ready = {model.name for model in before if model.state == "ready"}
    had_failed = {model.name for model in before if model.state == "failed"}
    return [
        f"{model.name}: {model.detail or model.state}"
        for model in after
        if model.state != "ready" and (model.name in was_ready or (model.required and model.name not in had_failed))
    ]
