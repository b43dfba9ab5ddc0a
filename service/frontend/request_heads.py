"""The rules for a request's head that the parser leaves to us, and the words for a request that it cannot read.

Sources: RFC 9112 (HTTP/1.1), 3 (request line), 3.2 (targets, Host), 6.1 (Transfer-Encoding); RFC 9110, 10.1.1 (Expect).
"""

from __future__ import annotations

import re

import httptools

from service.errors import ExpectationFailed, HeadersTooLarge, Malformed, Refusal, TargetTooLong

Fields = list[tuple[bytes, bytes]]

#: A larger head is refused, and so are trailers, and reads of framing that bring no byte of a body.
MAX_HEADER_BYTES = 65_536
#: `uri-host [":" port]` (RFC 3986, 3.2.2 and 3.2.3); it may be empty.
_HOST = re.compile(rb"[A-Za-z0-9\-._~%!$&'()*+,;=:\[\]]*")
_ABSOLUTE = re.compile(rb"https?://[^/?]+", re.IGNORECASE)
#: The first bytes of other protocols, and the words for their clients.
_OTHERS = {
    b"\x16\x03": "TLS is not spoken on this port; ask http://, or give the server --ssl-certfile.",
    b"PRI * HTTP/2": "HTTP/2 is not spoken here; use HTTP/1.1.",
}


def check_head(version: str, target: bytes, fields: Fields) -> bool:
    """Return whether the client waits for `100 Continue`. Names are in lower case, values without white space around.

    Raises:
        Malformed: the version is not 1.0 or 1.1, the framing is in doubt, or Host is missing, repeated or not a host.
        ExpectationFailed: something other than `100-continue` is expected.
        TargetTooLong: the target is over MAX_HEADER_BYTES.
    """
    if version not in ("1.1", "1.0"):
        found = "no version" if version == "0.9" else f"HTTP/{version}"
        raise Malformed(f"The request line has {found}; begin with METHOD /path HTTP/1.1.")
    if len(target) > MAX_HEADER_BYTES:
        raise target_too_long()
    by_name = dict(fields)
    host = by_name.get(b"host")
    if host is None:
        if version == "1.1":
            raise Malformed("There is no Host header, which HTTP/1.1 needs.")
    elif not _HOST.fullmatch(host) or (len(by_name) < len(fields) and _comes_twice(fields, b"host")):
        raise Malformed("The Host header comes twice or is not HOST or HOST:PORT.")
    if b"transfer-encoding" in by_name:
        _check_transfer(version, by_name[b"transfer-encoding"])
    expected = by_name.get(b"expect")
    if expected is None or version == "1.0":
        return False
    if expected.lower() != b"100-continue":
        raise ExpectationFailed(f"Expect is {_shown(expected)}; 100-continue is the only expectation that is met.")
    return True


def _check_transfer(version: str, coding: bytes) -> None:
    if version == "1.0":
        raise Malformed("HTTP/1.0 has no Transfer-Encoding; state a Content-Length.")
    if coding.lower() != b"chunked":
        raise Malformed(f"Transfer-Encoding is {_shown(coding)}; chunked is the only one taken.")


def check_size(fields: Fields) -> None:
    """Refuse a head that came in one read, so that nobody counted its bytes meanwhile.

    Raises:
        HeadersTooLarge: the fields are over MAX_HEADER_BYTES.
    """
    if sum(len(name) + len(value) for name, value in fields) > MAX_HEADER_BYTES:
        raise headers_too_large()


def origin_form(target: bytes) -> bytes:
    """Return the path and query of a target, which a proxy's client writes with a scheme and a host before them.

    Raises:
        Malformed: it is neither `/path` nor `http://host/path`, or holds a fragment.
    """
    if b"#" in target:
        raise Malformed("The request target holds a #; a fragment stays with the client, and a # in a path is %23.")
    if target.startswith(b"/"):
        return target
    absolute = _ABSOLUTE.match(target)
    if not absolute:
        raise Malformed(f"The request target is {_shown(target)}; it must begin with a slash, as in /predict.")
    path = target[absolute.end() :]
    return path if path.startswith(b"/") else b"/" + path


def not_a_proxy(target: bytes) -> Malformed:
    """The refusal of a CONNECT."""
    return Malformed(f"CONNECT {_shown(target)}: this server is not a proxy; the paths are in /docs.")


def target_too_long() -> TargetTooLong:
    return TargetTooLong(
        f"The request target is over {MAX_HEADER_BYTES:,} bytes; send a picture as the body of a POST."
    )


def headers_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"The headers are over {MAX_HEADER_BYTES:,} bytes.")


def unreadable(error: httptools.HttpParserError, begin: bytes) -> Refusal:
    """The refusal of what the parser stopped at: one that a callback raised, or the parser's words.

    Args:
        begin: the first bytes of the read in which it stopped.
    """
    if isinstance(error.__context__, Refusal):
        return error.__context__
    for first, words in _OTHERS.items():
        if begin.startswith(first):
            return Malformed(words)
    what = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
    return Malformed(f"The request is not valid HTTP/1.1: {str(what)[:200]}.")


def _comes_twice(fields: Fields, wanted: bytes) -> bool:
    return sum(name == wanted for name, _ in fields) > 1


def _shown(value: bytes) -> str:
    return repr(value[:80].decode("latin-1"))
