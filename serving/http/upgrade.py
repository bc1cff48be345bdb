"""HTTP/1.1 for clients that offer another protocol: an `Upgrade` header is passed over, as RFC 9110 (7.8) lets a server do.

Java's `HttpClient` offers HTTP/2 with each first request of a connection, unless it is told not to. After such a head httptools takes what comes for the
other protocol, and uvicorn drops it: the body is lost, and whatever else came with it. Here the same head is parsed once more without the
header, and what follows it goes on from where the parser stopped.
"""

from __future__ import annotations

from typing import Any

import httptools

from serving.http.slow_clients import SlowClientProtocol


class _Parser:
    """Requests of one connection; a new parser of httptools after each offer, for the old one has given up HTTP."""

    def __init__(self, protocol: Http1Protocol) -> None:
        self._protocol = protocol
        self._renew()

    def feed_data(self, data: bytes) -> None:
        rest = memoryview(data)  # of which each offer takes a part, without a copy
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
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self.get_http_version, self.get_method = parser.get_http_version, parser.get_method
        self.should_keep_alive, self.should_upgrade = parser.should_keep_alive, parser.should_upgrade


class Http1Protocol(SlowClientProtocol):
    """One connection that stays with HTTP/1.1, whatever is offered."""

    offered = False
    """Whether the head that was just parsed is an offer, and will be parsed again."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.parser = _Parser(self)  # type: ignore[assignment]  # all of it that uvicorn asks for

    def head(self) -> bytes:
        """The head that was parsed last, without its offer."""
        lines = [
            b"%b %b HTTP/%b\r\n"
            % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        ]
        lines += [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"".join(lines) + b"\r\n"

    def on_headers_complete(self) -> None:
        """A head is there; CONNECT is no offer, but another protocol by itself."""
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self.offered = True
        else:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A whole request."""
        if not self.offered:
            super().on_message_complete()
