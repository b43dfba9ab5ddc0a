"""Reader of a connection's requests: uvicorn's parser, with the rules that it leaves to us."""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import Refusal
from service.frontend import request_heads

#: An extension (https://asgi.readthedocs.io/en/latest/extensions.html) of a request of which all has come: the first
#: message that its task receives is there already, and is the last. It is read without time limits, in 3 µs, not 16.
WHOLE_BODY: dict[str, dict[object, object]] = {"gradless.whole_body": {}}


class RequestReader(HttpToolsProtocol):
    """Makes requests of the bytes of a connection. `begun` is called with each whose head is complete."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.url = b""
        self._reading = 0
        self._fruitless = 0
        self._keep_alive = False

    def begun(self) -> None:
        """Take in that `cycle` is a new request."""

    def is_within_head(self) -> bool:
        """Tell whether some of a head has come, and not all of it."""
        return bool(self._fruitless)

    def read(self, data: bytes) -> Refusal | None:
        """Read on; returns why no more can be read, if so.

        `_fruitless` counts the bytes of whole reads that brought no end of a head and nothing of a body.
        """
        self._reading = len(data)
        fault = self._parse(data)
        self._fruitless += self._reading
        if fault is None and self._fruitless > request_heads.MAX_HEADER_BYTES:
            of_target = len(self.url) > request_heads.MAX_HEADER_BYTES // 2
            fault = request_heads.target_too_long() if of_target else request_heads.headers_too_large()
        return fault

    def _parse(self, data: bytes) -> Refusal | None:
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._parse_on(memoryview(data)[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            return request_heads.unreadable(error, data[:16])
        return None

    def _parse_on(self, rest: memoryview) -> None:
        """Begin the request anew without its wish for another protocol, at whose head the parser has ended."""
        while True:
            head = self._head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            self.parser.feed_data(head)
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        """Return the head without its wish for anything but HTTP/1.1 (RFC 9110, 7.8: a server may ignore it)."""
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        fields = [b"%s: %s" % field for field in self.headers if field[0] != b"upgrade"]
        return b"\r\n".join([line, *fields, b"", b""])

    def on_header(self, name: bytes, value: bytes) -> None:
        """White space around a value is not part of it (RFC 9110, 5.5); the parser leaves what is behind it."""
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """Begin a request. An answer before its body is complete is a refusal, which ends the connection."""
        self._fruitless = -self._reading
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise request_heads.not_a_proxy(self.url)
            return
        self.expect_100_continue = request_heads.check_head(self.parser.get_http_version(), self.url, self.headers)
        if self._reading > request_heads.MAX_HEADER_BYTES:
            request_heads.check_size(self.headers)
        if not self.url.startswith(b"/") or b"#" in self.url:
            self.url = request_heads.origin_form(self.url)
        super().on_headers_complete()
        self.headers = []  # trailers are dropped: a request is not changed by what comes after it (RFC 9110, 6.5.1)
        self._keep_alive, self.cycle.keep_alive = self.cycle.keep_alive, False
        self.begun()

    def on_body(self, body: bytes) -> None:
        """Keep it, as uvicorn's does, which asks twice more whether this is a WebSocket."""
        self._fruitless = -self._reading
        if self.cycle.response_complete:
            return
        self.cycle.body += body
        if len(self.cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # the same request begins anew
        if self.cycle.response_complete:
            return
        self.cycle.more_body = False
        self.cycle.message_event.set()
        self.cycle.scope["extensions"] = WHOLE_BODY
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keep_alive
        if not self.pipeline:
            self.flow.resume_reading()  # paused after a large body, it would not see its client leave

    def shutdown(self) -> None:
        self._keep_alive = False
        super().shutdown()
