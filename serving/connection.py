"""A connection to the online store that answers in time or says why not. Many requests share it; each is one write.

Requests are pipelined: replies come in the order of the commands, so a request that gave up only leaves replies behind
that are dropped when they arrive. A request that meets its time limit while the server has said nothing at all since
it was sent ends the connection: the server is frozen, or the network is gone, and everybody else waiting is told at once
instead of each waiting for itself. While there is no connection requests fail immediately; a task of its own opens the
next one and offers it only after the server has answered a PING. So a frozen server costs one time limit, not one each.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from typing import Any, Final

import hiredis
import structlog

from feature_repo.errors import OnlineStoreError
from serving import metrics
from serving.address import Address
from serving.resp import pack

log = structlog.get_logger(__name__)

MOST_WAITING: Final = 4096
"""Requests in flight; more are refused at once, since they could not be answered in time anyway."""
OPEN_SECONDS: Final = 1.0
FIRST_WAIT, LONGEST_WAIT = 0.02, 1.0
COMPLAIN_SECONDS: Final = 60.0
_GRACE: Final = 0.001
_NOTHING: Final = object()


class StoreTimeout(OnlineStoreError):  # noqa: N818  reads as what happened, like its siblings in errors.py
    """The server did not answer within the time limit."""


class StoreUnreachable(OnlineStoreError):  # noqa: N818  same
    """There is no connection, or it ended before the answer."""


class _Ask:
    """One request: how many replies it waits for, and those it has."""

    __slots__ = ("future", "got", "need", "sent")

    def __init__(self, future: asyncio.Future[list[Any]], need: int) -> None:
        self.future = future
        self.need = need
        self.got: list[Any] = []
        self.sent = time.monotonic()


class _Wire(asyncio.Protocol):
    """One TCP connection; replies go to the requests in the order they were sent."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.heard = 0.0
        self._replies = hiredis.Reader(notEnoughData=_NOTHING)
        self._asks: deque[_Ask] = deque()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, request: bytes, need: int) -> _Ask:
        if len(self._asks) >= MOST_WAITING:
            raise StoreUnreachable(
                f"{MOST_WAITING} requests are waiting for the online store already",
                todo="start more scorers, or look why the store is slow",
            )
        ask = _Ask(asyncio.get_running_loop().create_future(), need)
        self._asks.append(ask)
        self._transport.write(request)
        return ask

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()
        try:
            self._replies.feed(data)
            while self._asks:
                reply = self._replies.gets()
                if reply is _NOTHING:
                    return
                ask = self._asks[0]
                ask.got.append(reply)
                if len(ask.got) == ask.need:
                    self._asks.popleft()
                    if not ask.future.done():
                        ask.future.set_result(ask.got)
        except hiredis.ProtocolError:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        why = f"the connection to the online store ended: {exc or 'closed by the server, or silent'}"
        for ask in self._asks:
            if not ask.future.done():
                ask.future.set_exception(StoreUnreachable(why))
                ask.future.exception()  # whoever gave up waiting does not want to hear of it
        self._asks.clear()
        if not self.closed.done():
            self.closed.set_result(None)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class StoreConnection:
    """A named, always reconnecting connection.

    Measured on the read of one payment (three HMGETs, 4.4 kB of replies), CPU of the client: 75 to 100 us alone and 40 to 55 us
    with 20 in flight; a pipeline of redis.asyncio takes 240 to 275 us and 165 to 175 us.
    """

    def __init__(self, url: str, lane: str) -> None:
        self._address = Address.parse(url)
        self._lane = lane
        self._wire: _Wire | None = None
        self._ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._seconds = metrics.STORE_SECONDS.labels(lane)
        self._why = "not connected yet"
        self._complain_at = 0.0

    async def start(self, wait: float = OPEN_SECONDS) -> None:
        """Begin to connect, and give it a moment; a server that is not there yet is no error."""
        metrics.STORE_CONNECTED.labels(self._lane).set(0)
        self._keeper = asyncio.create_task(self._keep(), name=f"store-{self._lane}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ready.wait(), wait)

    async def stop(self) -> None:
        """Close the connection; requests still waiting fail."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None

    async def ask(self, request: bytes, replies: int, seconds: float) -> list[Any]:
        """Send packed commands, wait for their replies (error replies raise).

        Raises `StoreTimeout`, `StoreUnreachable`, or `OnlineStoreError` with what the server said.
        """
        wire = self._wire
        if wire is None:
            raise StoreUnreachable(
                f"no connection: {self._why}", where=self._address, todo="start it, or correct REDIS_URL"
            )
        began = time.perf_counter()
        try:
            got = await _ask(wire, request, replies, seconds)
        finally:
            self._seconds.observe(time.perf_counter() - began)
        for reply in got:
            if isinstance(reply, Exception):
                raise OnlineStoreError(
                    f"the server refused a read: {reply}",
                    where=self._address,
                    todo="look at the server's memory, rights and key types",
                )
        return got

    def tell(self, request: bytes, replies: int) -> None:
        """Send packed commands and do not wait: whatever is asked over this connection later finds them carried out.

        What the server refuses, and what there is no connection for, is counted, and logged once in a while.
        """
        if self._wire is None:
            metrics.UNTOLD.inc()
            return
        try:
            told = self._wire.send(request, replies)
        except StoreUnreachable:
            metrics.UNTOLD.inc()
            return
        told.future.add_done_callback(self._told)

    def _told(self, future: asyncio.Future[list[Any]]) -> None:
        failed = future.exception() if not future.cancelled() else None
        refused = failed or next((r for r in future.result() if isinstance(r, Exception)), None)
        if refused is None:
            return
        metrics.UNTOLD.inc()
        if time.monotonic() >= self._complain_at:
            self._complain_at = time.monotonic() + COMPLAIN_SECONDS
            log.warning(
                "store.not_written",
                lane=self._lane,
                why=str(refused),
                todo="let the scorer's user write millstream:pending:*, see that the server has memory",
            )

    async def _keep(self) -> None:
        """Open, hold, open again, with growing and jittered waits in between."""
        wait, reported = FIRST_WAIT, False
        connected = metrics.STORE_CONNECTED.labels(self._lane)
        wire: _Wire | None = None
        try:
            while True:
                try:
                    wire = await self._open()
                except (OSError, TimeoutError, OnlineStoreError) as error:
                    self._why = str(error) or type(error).__name__
                    if not reported:
                        log.warning(
                            "store.unreachable", lane=self._lane, at=str(self._address), why=self._why
                        )
                        reported = True
                    await asyncio.sleep(wait * random.uniform(0.5, 1.0))
                    wait = min(2 * wait, LONGEST_WAIT)
                    continue
                log.info("store.connected", lane=self._lane, at=str(self._address))
                wait, reported, self._wire = FIRST_WAIT, False, wire
                connected.set(1)
                self._ready.set()
                await wire.closed
                self._wire, self._why = None, "the last one ended"
                connected.set(0)
                metrics.STORE_LOST.labels(self._lane).inc()
                log.warning("store.lost", lane=self._lane, at=str(self._address))
        finally:
            self._wire = None
            connected.set(0)
            if wire is not None:
                wire.abort()

    async def _open(self) -> _Wire:
        """A connection whose server has answered its greeting."""
        loop, address = asyncio.get_running_loop(), self._address
        async with asyncio.timeout(OPEN_SECONDS):
            if address.path:
                _, wire = await loop.create_unix_connection(_Wire, address.path)
            else:
                _, wire = await loop.create_connection(
                    _Wire, address.host, address.port, ssl=address.tls_context
                )
        try:
            greeting = address.greeting
            replies = await _ask(wire, pack(greeting), len(greeting), OPEN_SECONDS)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise OnlineStoreError(  # noqa: TRY301  the wire must be closed for this one too
                        f"the server refuses us: {reply}",
                        where=address,
                        todo="correct user, password or database",
                    )
        except BaseException:
            wire.abort()
            raise
        return wire


async def _ask(wire: _Wire, request: bytes, replies: int, seconds: float) -> list[Any]:
    loop = asyncio.get_running_loop()
    ask = wire.send(request, replies)
    # A loop that was held up runs its timers before it reads its sockets: the answer may be there already, so look once more.
    timer = loop.call_later(max(seconds, 0.0), lambda: loop.call_later(_GRACE, _give_up, wire, ask, seconds))
    try:
        return await ask.future
    finally:
        timer.cancel()


def _give_up(wire: _Wire, ask: _Ask, seconds: float) -> None:
    if ask.future.done():
        return
    ask.future.set_exception(StoreTimeout(f"no answer from the online store within {seconds * 1000:.0f} ms"))
    if wire.heard < ask.sent:
        wire.abort()
