"""Options of a request beside its pictures: `top_k`, in the query or the body; and words for any that do not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from service.errors import Unprocessable
from service.validation import whole_number

DEFAULT_TOP_K = 5
MAX_TOP_K = 100

_MODEL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,79}")
_TIMEOUTS = ("timeout", "timeout_ms", "timeout_s", "timeout_seconds", "deadline")
#: Headers that are meant as an option of ours; proxies send none of them.
_ALMOST = {
    b"x-top-k": "top_k",
    b"x-topk": "top_k",
    b"x-model": "model",
    b"x-model-name": "model",
    b"x-timeout": "timeout",
    b"x-timeout-s": "timeout",
    b"x-timeout-sec": "timeout",
    b"x-timeout-seconds": "timeout",
    b"x-timeout-millis": "timeout",
    b"x-deadline-ms": "timeout",
}
_OWN = b"x-gradless-"


def check_headers(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Look for headers that mean an option and would be passed over; to pass over eight others takes 0.6 µs.

    Raises:
        Unprocessable: there is one.
    """
    for name, value in headers:
        if name in _ALMOST or name.startswith(_OWN):
            key = _ALMOST.get(name, name.removeprefix(_OWN).decode("latin-1").replace("-", "_"))
            shown = "-".join(part.capitalize() for part in name.decode("latin-1").split("-"))
            raise Unprocessable(f"{shown[:60]} is not a header of this server; {_advice(key, value.decode('latin-1'))}")


def top_k_of_query(query: Iterable[tuple[str, str]]) -> int | None:
    """Return the query's `top_k`, if it has one.

    Raises:
        Unprocessable: it has it twice, another key, or what is not such a number.
    """
    top_k = None
    for key, value in query:
        if key != "top_k":
            raise unknown_option("query parameter", key, value)
        if top_k is not None:
            raise Unprocessable("top_k appears in the query twice; give it once.")
        top_k = top_k_of(value)
    return top_k


def no_options(query: Iterable[tuple[str, str]]) -> None:
    """Refuse any option, for a task that has none.

    Raises:
        Unprocessable: there is one.
    """
    for key, value in query:
        if key == "top_k":
            raise Unprocessable("top_k is for the classes of a classifier, and this model has none; leave it out.")
        raise unknown_option("query parameter", key, value)


def top_k_of(text: str) -> int:
    """Return the `top_k` that a query or a form has as text.

    Raises:
        Unprocessable: it is no whole number, or none of the range.
    """
    top_k = whole_number(text, MAX_TOP_K + 1)
    if not top_k or top_k > MAX_TOP_K:
        raise Unprocessable(f"top_k is {text[:40]!r}; it must be a whole number from 1 to {MAX_TOP_K}.")
    return top_k


def agreed_top_k(of_query: int | None, of_body: int | None) -> int:
    """Return the one `top_k` of a request.

    Raises:
        Unprocessable: its query and its body say different ones.
    """
    if of_query is not None and of_body is not None and of_query != of_body:
        raise Unprocessable(f"top_k is {of_query} in the query and {of_body} in the body; give it once.")
    return of_query or of_body or DEFAULT_TOP_K


def unknown_option(kind: str, key: str, value: str) -> Unprocessable:
    """Make the refusal of a key that a query or a form has and no request can."""
    return Unprocessable(f"{key[:40]!r} is not a {kind}; {_advice(key, value)}")


def _advice(key: str, value: str) -> str:
    plain = key.lower().replace("-", "_")
    if plain in ("model", "model_name"):
        return f"a model is chosen by the path: POST /models/{value if _MODEL.fullmatch(value) else 'NAME'}/predict."
    if plain in _TIMEOUTS:
        return "a timeout goes into the header X-Timeout-Ms, in milliseconds."
    close = difflib.get_close_matches(plain[:40], ["top_k", "topk", "k", "top"], 1)
    return "did you mean ?top_k=5?" if close else "the one option is top_k, such as ?top_k=5; X-Timeout-Ms is a header."
