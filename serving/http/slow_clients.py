"""Uvicorn's HTTP protocol with an end to its patience: for heads without an end, and for clients that owe the rest of a request.

Uvicorn on httptools keeps a head of any size in memory, waits for ever for the rest of a head or a body, and reads on with every answer to a
client that sends requests without waiting for answers. All of it is to be had without an API key, so it is limited before anybody asks for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from typing import Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 65_536
"""Bytes that come without completing a head or adding to a body: a head, or the frame of a chunk."""
TICK_SECONDS: Final = 10.0
"""A client may take one to two of these for a head, or for a body."""


class _Flow(FlowControl):
    """Reads on when no request of the connection is waiting for its turn."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class SlowClientProtocol(HttpToolsProtocol):
    """One connection. A client that sends too much head gets 400, one that stops half way is hung up on."""

    _pending = 0
    _begun = 0
    _completed = 0
    _completed_before = -1
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin to look at the clock."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._timer = self.loop.call_later(TICK_SECONDS, self._tick)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and count what completed nothing."""
        self._pending += len(data)
        super().data_received(data)
        if self._pending > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_headers_complete(self) -> None:
        """A head is there."""
        self._pending = 0
        self._begun += 1
        self._unset_keepalive_if_required()
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
        if self.cycle.response_complete and not self.transport.is_closing():
            # It was answered before its end was here; the connection is idle from now on.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """The next request that waits, or reading on."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _tick(self) -> None:
        owing = self.cycle is None or self._pending > 0 or self._begun > self._completed
        owing = owing and not self.flow.read_paused  # then it is we who do not read
        if owing and self._completed == self._completed_before and not self.transport.is_closing():
            self.transport.close()
            return
        self._completed_before = self._completed if owing else -1
        self._timer = self.loop.call_later(TICK_SECONDS, self._tick)
