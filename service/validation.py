"""Tables and numbers that people write, and plain words for what is wrong in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

#: Longest value that is shown whole.
_MOST_SHOWN = 100

#: By the beginning of a problem's type: what the value is not, and what would be right.
_KINDS = {
    "int_": "is not a whole number; give one",
    "float_": "is not a number; give one",
    "finite_number": "is not a finite number; give one",
    "bool_": "is neither true nor false; write one of them",
    "string_type": "is not text; write it in quotes",
    "string_too_short": "is empty; write something, or leave the key out",
    "list_": "is not a list; write it in brackets",
    "tuple_": "is not a list; write it in brackets",
    "dict_": "is not a table; give it keys of its own",
    "model_": "is not a table; give it keys of its own",
    "path_": "is not a path; write one in quotes",
}
#: By a problem's type: how the value is out of its range, and the bound's name in the problem's context.
_BOUNDS = {
    "greater_than_equal": ("too small", "at least", "ge"),
    "greater_than": ("too small", "more than", "gt"),
    "less_than_equal": ("too large", "at most", "le"),
    "less_than": ("too large", "less than", "lt"),
}


#: Tags of values that may be one or a list; pydantic adds them to a problem's location, where they are left out.
KINDS = ("one", "several")


class Table(BaseModel):
    """A table of TOML, all of whose keys are known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def kind_of(value: object) -> str:
    """Return which of `KINDS` a value is."""
    return "several" if isinstance(value, list | tuple) else "one"


def plain_words(problem: Mapping[str, Any]) -> str:
    """Say what was found and what would be right, of one of the `errors()` of a ValidationError."""
    kind, context, value = problem["type"], problem.get("ctx", {}), _shown(problem["input"])
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"{value} is not one of its values; choose {context['expected'].replace(chr(39), '')}"
    if kind == "too_long":
        return f"has more than {context['max_length']} entries; leave some out"
    if kind == "too_short":
        return f"has {context['actual_length']} entries; give at least {context['min_length']}, or leave the key out"
    if kind in _BOUNDS:
        size, words, name = _BOUNDS[kind]
        return f"{value} is {size}; it must be {words} {context[name]:g}"
    for beginning, words in _KINDS.items():
        if kind.startswith(beginning):
            return f"{value} {words}"
    return f"{value} does not fit; {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def whole_number(text: str, most: int) -> int | None:
    """Return the number that ASCII digits write, or `most` where it is more; None for any other text.

    `int()` refuses more than 4,300 digits, and takes spaces, signs, underscores and digits of other scripts.
    """
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0")
    return most if len(digits) > len(str(most)) else min(int(digits or "0"), most)


def _shown(value: object) -> str:
    """A value as its file has it, as far as Python's words for it are not that."""
    words = str(value).lower() if isinstance(value, bool) else repr(value)
    return words if len(words) <= _MOST_SHOWN else f"{words[:_MOST_SHOWN]}…"
