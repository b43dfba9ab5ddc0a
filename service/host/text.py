"""Text files that people write: UTF-8 whatever the locale, in lines that end where an editor ends them."""

from __future__ import annotations

from codecs import BOM_UTF8
from pathlib import Path

from service.errors import ConfigurationError


def read_text(file: Path, key: str) -> str:
    """Return a file's text without its byte order mark.

    Args:
        file: the file to read.
        key: the key, or the kind of file, that an error names.

    Raises:
        ConfigurationError: a byte is not UTF-8, or is NUL, as in UTF-16; its line and place in the line are named.
        OSError: it cannot be read.
    """
    content = file.read_bytes().removeprefix(BOM_UTF8)
    wrong = _first_wrong(content)
    if wrong >= 0:
        line, byte = content.count(b"\n", 0, wrong) + 1, wrong - content.rfind(b"\n", 0, wrong)
        words = f"line {line}, byte {byte} (0x{content[wrong]:02x}) is not UTF-8 text"
        raise ConfigurationError.at(file, key, words, "save the file as UTF-8")
    return content.decode()


def _first_wrong(content: bytes) -> int:
    """Offset of the first byte that text in UTF-8 does not hold; -1 without one."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return error.start
    return content.find(b"\0")


def split_lines(text: str) -> list[str]:
    """Return the lines of a text, each ended by LF or CRLF alone.

    `str.splitlines` would also cut at a form feed, U+0085 and U+2028, which may stand in a label.
    """
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]
