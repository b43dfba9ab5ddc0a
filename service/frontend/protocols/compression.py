"""Answers behind `Content-Encoding`, where `Accept-Encoding` asks for one."""

from __future__ import annotations

import gzip
import zlib

from service.tasks.outputs.answer import Written

#: A smaller answer fits into one packet as it is (bytes).
LEAST_BYTES = 1400
#: The quickest; numbers gain little from more.
_LEVEL = 1


def compressed(written: Written, accepts: str) -> Written:
    """Return an answer compressed with gzip or deflate, whichever `accepts` names first (RFC 9110, 12.5.3)."""
    coding = _coding(accepts)
    if not coding or len(written.body) < LEAST_BYTES:
        return written
    body = gzip.compress(written.body, _LEVEL) if coding == "gzip" else zlib.compress(written.body, _LEVEL)
    return written._replace(body=body, headers=(*written.headers, (b"content-encoding", coding.encode())))


def _coding(accepts: str) -> str:
    for each in accepts.lower().split(","):
        name, _, parameter = each.partition(";")
        is_refused = parameter.replace(" ", "").rstrip("0") in ("q=", "q=0.")
        if name.strip() in ("gzip", "deflate") and not is_refused:
            return name.strip()
    return ""
