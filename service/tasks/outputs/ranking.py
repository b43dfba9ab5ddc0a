"""The highest elements of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.tasks.outputs.answer import Ranked


def highest(array: npt.NDArray[Any], most: int, labels: Sequence[str] = ()) -> list[list[Ranked]]:
    """Return the highest elements of each example, falling, of `(count, *shape)`; of equal ones the first comes first.

    Args:
        labels: of the elements, in order; none if they have no labels.
    """
    rows = array.reshape(len(array), -1)
    order = rows.shape[1] - 1 - np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :most]
    values = np.take_along_axis(rows, order, axis=1)
    return [
        [Ranked(value, index, labels[index] if labels else "") for value, index in zip(*row, strict=True)]
        for row in zip(values.tolist(), order.tolist(), strict=True)
    ]
