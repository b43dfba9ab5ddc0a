"""A file of labels: one a line, for each class in its order. Read by every process, so it imports no torch."""

from __future__ import annotations

from pathlib import Path

from service.errors import ConfigurationError
from service.host.text import read_text, split_lines


def read_labels(file: Path) -> list[str]:
    """Return the labels of a file; blank lines at its end are not labels.

    Raises:
        ConfigurationError: it cannot be read, is not UTF-8, or a line before the last label is blank.
    """
    try:
        labels = split_lines(read_text(file, "labels"))
    except OSError as error:
        words = f"cannot be read: {error.strerror}"
        raise ConfigurationError.at(file, "labels", words, "make it readable") from error
    while labels and not labels[-1].strip():
        labels.pop()
    if blank := [number for number, label in enumerate(labels, 1) if not label.strip()]:
        words = f"line {blank[0]} is blank"
        raise ConfigurationError.at(file, "labels", words, "give each class a label on a line of its own")
    return labels
