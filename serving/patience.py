"""Uvicorn's HTTP protocol with an end to its patience: for heads without an end, and for clients that owe the rest of a request.

Uvicorn on httptools keeps a head of any size in memory, and waits for ever for the rest of a head or a body. Both are to be had without
an API key, so they are limited before anybody asks for one.

And with patience for clients that offer HTTP/2 with an `Upgrade` header, as Java's `HttpClient` does unless it is told not to: httptools takes
what comes after such a head for the other protocol, so the body is lost. The offer is passed over, as RFC 9110 (7.8) lets a server do.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES: Final = 65_536
"""Bytes that come without completing a head or adding to a body: a head, or the frame of a chunk."""
TICK_SECONDS: Final = 10.0
"""A client may take one to two of these for a head, or for a body."""
_OFFER: Final = re.compile(rb"(?i)(?<=\r\n)upgrade(?=[ \t]*:)")
"""Its name is replaced by another one of its length. No JSON has a line that begins so, so a body is never changed that could be read."""


class PatientProtocol(HttpToolsProtocol):
    """One connection. A client that sends too much head gets 400, one that stops half way is hung up on."""

    _pending = 0
    _begun = 0
    _completed = 0
    _completed_before = -1
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin to look at the clock."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(TICK_SECONDS, self._tick)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and count what completed nothing."""
        self._pending += len(data)
        if b"pgrade" in data:
            data = _OFFER.sub(b"ignored", data)
        super().data_received(data)
        if self._pending > MOST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_headers_complete(self) -> None:
        """A head is there."""
        self._pending = 0
        self._begun += 1
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A whole request."""
        self._pending = 0
        self._completed += 1
        super().on_message_complete()
        if (
            self.cycle.response_complete and not self.transport.is_closing()
        ):  # answered before its body was here
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _tick(self) -> None:
        owing = self.cycle is None or self._pending > 0 or self._begun > self._completed
        if owing and self._completed == self._completed_before and not self.transport.is_closing():
            self.transport.close()
            return
        self._completed_before = self._completed if owing else -1
        self._timer = self.loop.call_later(TICK_SECONDS, self._tick)
