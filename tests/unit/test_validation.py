"""Every kind of value that cannot be is told by what was found and what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator

from service.errors import ConfigurationError
from service.settings import read_settings
from service.validation import plain_words


class Inner(BaseModel):
    key: int = 0


class Everything(BaseModel):
    level: Literal["debug", "info", "error"] = "info"
    one: Literal["one"] = "one"
    whole: int = Field(1, ge=1, le=9)
    share: float = Field(0.5, gt=0, lt=1, allow_inf_nan=False)
    flag: bool = False
    text: str = Field("a", min_length=1)
    names: list[str] = []
    pair: tuple[float, ...] = ()
    table: dict[str, str] = {}
    inner: Inner = Inner()
    file: Path = Path()
    even: int = 2
    code: str = Field("a", pattern="^a")

    @field_validator("even")
    @classmethod
    def _is_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"{value} is odd; choose {value + 1}")
        return value


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("level", "verbose", "'verbose' is not one of its values; choose debug, info or error"),
        ("one", "two", "'two' is not one of its values; choose one"),
        ("whole", 0, "0 is too small; it must be at least 1"),
        ("whole", 10, "10 is too large; it must be at most 9"),
        ("whole", "many", "'many' is not a whole number; give one"),
        ("whole", 1.5, "1.5 is not a whole number; give one"),
        ("whole", [1], "[1] is not a whole number; give one"),
        ("share", 0, "0 is too small; it must be more than 0"),
        ("share", 1, "1 is too large; it must be less than 1"),
        ("share", "half", "'half' is not a number; give one"),
        ("share", float("nan"), "nan is not a finite number; give one"),
        ("flag", "maybe", "'maybe' is neither true nor false; write one of them"),
        ("flag", 7, "7 is neither true nor false; write one of them"),
        ("text", 3, "3 is not text; write it in quotes"),
        ("text", True, "true is not text; write it in quotes"),
        ("text", "", "'' is empty; write something, or leave the key out"),
        ("names", "a", "'a' is not a list; write it in brackets"),
        ("pair", 1, "1 is not a list; write it in brackets"),
        ("table", 3, "3 is not a table; give it keys of its own"),
        ("inner", 3, "3 is not a table; give it keys of its own"),
        ("file", 3, "3 is not a path; write one in quotes"),
        ("even", 3, "3 is odd; choose 4"),
        ("code", "b", "'b' does not fit; string should match pattern '^a'"),
        ("whole", "x" * 200, f"'{'x' * 99}… is not a whole number; give one"),
    ],
)
def test_a_value_is_told_by_what_it_is_and_what_it_must_be(key: str, value: Any, words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Everything(**{key: value})
    [problem] = raised.value.errors()
    assert plain_words(problem) == words


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            {"log_level": "verbose"},
            "--log-level: 'verbose' is not one of its values; choose debug, info, warning or error",
        ),
        ({"port": 70_000}, "--port: 70000 is too large; it must be at most 65535"),
        ({"timeout_ms": 0}, "--timeout-ms: 0 is too small; it must be at least 1"),
        ({"replace": "behind"}, "--replace: 'behind' is not one of its values; choose beside or stop-first"),
    ],
)
def test_a_flag_is_told_with_its_name(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read_settings(flags)
    assert str(raised.value) == words


def test_a_list_in_a_variable_that_is_not_json_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADLESS_CORS_ORIGINS", "https://a.example")
    with pytest.raises(ConfigurationError) as raised:
        read_settings({})
    assert str(raised.value) == 'GRADLESS_CORS_ORIGINS: is not a list in JSON; write ["ONE", "OTHER"]'


def test_a_variable_is_told_with_both_places_that_it_may_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADLESS_LOG_LEVEL", "verbose")
    with pytest.raises(ConfigurationError) as raised:
        read_settings({})
    assert str(raised.value) == (
        "GRADLESS_LOG_LEVEL, or log_level in gradless.toml: 'verbose' is not one of its values; choose debug, info, "
        "warning or error"
    )
