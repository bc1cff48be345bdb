"""HTTP/1.1 for clients that offer another protocol: the `Upgrade` header is ignored, as RFC 9110 (7.8) allows.

Java's `HttpClient` offers HTTP/2 with the first request of each connection unless told otherwise. After such a head,
httptools takes the following bytes for the other protocol and uvicorn drops them, so the body is lost. Here the same
head is parsed again without the header, and parsing continues where it stopped.
"""

from __future__ import annotations

from typing import Any

import httptools

from serving.http.slow_clients import SlowClientProtocol


class _Parser:
    """The httptools parser of one connection, replaced after each offer because the old one no longer parses HTTP."""

    def __init__(self, protocol: Http1Protocol) -> None:
        self._protocol = protocol
        self._renew()

    def feed_data(self, data: bytes) -> None:
        rest = memoryview(data)  # each offer consumes a part, without a copy
        while True:
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                if not self._protocol.offered:
                    raise
                head, rest = self._protocol.head(), rest[offer.args[0] :]
                self._protocol.offered = False
                self._renew()
                self._parser.feed_data(head)
            else:
                return

    def _renew(self) -> None:
        self._parser = parser = httptools.HttpRequestParser(self._protocol)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
        self.get_http_version, self.get_method = parser.get_http_version, parser.get_method
        self.should_keep_alive, self.should_upgrade = parser.should_keep_alive, parser.should_upgrade


class Http1Protocol(SlowClientProtocol):
    """One connection that stays with HTTP/1.1."""

    offered = False
    """Whether the last head offers another protocol and will be parsed again."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.parser = _Parser(self)  # type: ignore[assignment]  # has all methods that uvicorn calls

    def head(self) -> bytes:
        """Return the last head without its `Upgrade` header."""
        lines = [
            b"%b %b HTTP/%b\r\n"
            % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        ]
        lines += [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"".join(lines) + b"\r\n"

    def on_headers_complete(self) -> None:
        """Handle a complete head; CONNECT is not an offer."""
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self.offered = True
        else:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Handle the end of a request."""
        if not self.offered:
            super().on_message_complete()
