"""Text that people write: UTF-8 whatever the locale, and lines that end where an editor ends them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import ConfigurationError
from service.host.text import read_text, split_lines

ROOT = Path(__file__).parents[3]


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path):
    (tmp_path / "file").write_bytes("\ufeffVögel\ufeff".encode())
    assert read_text(tmp_path / "file", "file") == "Vögel\ufeff"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xe9t\xe9", "line 1, byte 1 (0xe9)"),
        (b"one\r\ntw\xf6\n", "line 2, byte 3 (0xf6)"),
        (b"\xef\xbb\xbfone\n\n\n\xc3", "line 4, byte 1 (0xc3)"),
        (b"\xed\xa0\x80", "line 1, byte 1 (0xed)"),
        ("one\n".encode("utf-16-be"), "line 1, byte 1 (0x00)"),
        ("é\n".encode() + b"a\0b\xff", "line 2, byte 4 (0xff)"),
        ("é\n".encode() + b"a\0b", "line 2, byte 2 (0x00)"),
    ],
)
def test_a_byte_that_is_not_utf_8_is_named_with_its_line(tmp_path, content, words):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        read_text(tmp_path / "file", "file")
    assert str(raised.value) == f"{tmp_path}/file: file: {words} is not UTF-8 text; save the file as UTF-8"


def test_only_a_line_feed_ends_a_line_and_takes_one_carriage_return_along():
    text = "a\nb\r\nc\u2028d\x0ce\x85f\x1cg\rh\r\r\n\n i "
    assert split_lines(text) == ["a", "b", "c\u2028d\x0ce\x85f\x1cg\rh\r", "", " i "]
    assert split_lines("") == []
    assert split_lines("\n") == [""]


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call of what is shipped, with its place."""
    for folder in ("service", "deploy", "examples"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(node, ast.Call):
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", node


def is_left_to_the_locale(call: ast.Call) -> bool:
    """Say whether a call reads or writes text in the encoding that the machine prefers; ruff sees only some of them."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given:
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("read_text", "write_text"):
        return isinstance(call.func, ast.Attribute) and len(call.args) < (1 if name == "read_text" else 2)
    if name in ("open", "fdopen"):
        modes = [*call.args, *filter(None, [given.get("mode")])]
        words = [str(mode.value) for mode in modes if isinstance(mode, ast.Constant)]
        return any(re.fullmatch(r"[rwxat+]+", word) for word in words)
    return bool({"text", "universal_newlines"} & set(given))


def test_no_text_is_left_to_the_encoding_of_the_locale():
    assert [place for place, call in calls() if is_left_to_the_locale(call)] == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("Path(x).read_text()", True),
        ("Path(x).write_text(text)", True),
        ("path.open('a')", True),
        ("open(x, 'w')", True),
        ("os.fdopen(number, mode='r')", True),
        ("subprocess.run(command, text=True)", True),
        ("Path(x).read_text('ascii')", False),
        ("path.write_text(text, encoding='utf-8')", False),
        ("path.open('wb')", False),
        ("accounts.open(name)", False),
        ("subprocess.run(command, text=True, encoding='utf-8')", False),
    ],
)
def test_what_is_left_to_the_locale_is_noticed(line, found):
    assert is_left_to_the_locale(ast.parse(line, mode="eval").body) == found
