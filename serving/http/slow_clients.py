"""Uvicorn's HTTP protocol with limits for clients that send endless heads or stop in the middle of a request.

Uvicorn on httptools buffers a head of any size, waits without limit for the rest of a head or a body, and keeps reading
from a client that sends requests without reading answers. None of this needs an API key, so the limits apply before
authorization.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sized
from typing import Final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 65_536
"""Maximum number of bytes that neither complete a head nor belong to a body: a head, or the frame of a chunk."""
TICK_SECONDS: Final = 10.0
"""Time between checks; a client may take one to two of these for a head or a body."""


class _Flow(FlowControl):
    """Resumes reading only while no request of the connection is queued."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class SlowClientProtocol(HttpToolsProtocol):
    """One connection.

    A head that is too large gets 400; a client that stops in the middle of a request is disconnected.
    """

    _pending = 0
    _heads = 0
    _completed = 0
    _completed_at_last_tick = -1
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Start the timer."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._timer = self.loop.call_later(TICK_SECONDS, self._tick)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and count the bytes that complete nothing."""
        self._pending += len(data)
        super().data_received(data)
        if self._pending > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_headers_complete(self) -> None:
        """Handle a complete head."""
        self._pending = 0
        self._heads += 1
        self._unset_keepalive_if_required()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Handle a piece of a body."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Handle the end of a request."""
        self._pending = 0
        self._completed += 1
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            # It was answered before it was complete; the connection is idle from now on.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """Start the next queued request, or resume reading."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _tick(self) -> None:
        incomplete = self.cycle is None or self._pending > 0 or self._heads > self._completed
        incomplete = incomplete and not self.flow.read_paused  # reading is paused: the client is not to blame
        if incomplete and self._completed == self._completed_at_last_tick and not self.transport.is_closing():
            self.transport.close()
            return
        self._completed_at_last_tick = self._completed if incomplete else -1
        self._timer = self.loop.call_later(TICK_SECONDS, self._tick)
