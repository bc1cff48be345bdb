"""A connection to the online store that answers in time or says why not. Many requests share it; each is one write.

Requests are pipelined: replies come in the order of the commands. A request that timed out leaves its replies behind,
which are dropped when they arrive. If a request times out and the server has sent nothing since it was written, the
connection is closed, so that other requests fail at once: the server is frozen or the network is gone. If the server
answers but too late, the circuit breaker opens (`serving.store.circuit_breaker`). Without a connection, or with an open
breaker, requests fail immediately.

A background task opens connections, one at a time. It puts one into use once the last successful read, sent again as a
probe, is answered in time, so a frozen or slow server costs a few time limits instead of one per request. It is not a
retry loop: it supervises one connection for as long as the process runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from typing import Any, ClassVar, Final

import hiredis
import structlog

from feature_repo.errors import OnlineStoreError
from feature_repo.redis_url import RedisAddress
from serving import metrics
from serving.store.circuit_breaker import Breaker
from serving.store.resp import pack

log = structlog.get_logger(__name__)

MAX_WAITING: Final = 4096
"""Maximum number of requests in flight; further ones fail at once, since they could not be answered in time."""
OPEN_SECONDS: Final = 1.0
LOG_EVERY_SECONDS: Final = 60.0
FIRST_DELAY, LONGEST_DELAY = 0.02, 0.5
"""Seconds between attempts to connect, doubled each time until a connection lives for `OPEN_SECONDS`. A server that
is back is in use again within 2 s."""
PROBE_SECONDS: Final = 0.1
DELAYED_SECONDS: Final = 0.05
"""A timer that fires later than this says nothing about the server: the scorer itself was delayed."""
_PING: Final = pack([[b"PING"]]), 1
_GRACE: Final = 0.001
_NOTHING: Final = object()


class StoreFailure(OnlineStoreError):  # noqa: N818  named after the event, like the others in errors.py
    """The store gave no answer; `code` is the code in `degraded_reasons`."""

    code: ClassVar[str] = "store_error"


class StoreTimeout(StoreFailure):
    """The server did not answer within the time limit."""

    code = "store_timeout"


class ScorerDelayed(StoreTimeout):
    """The time limit had passed before the request was sent, or while this process was busy."""

    code = "deadline"


class StoreUnreachable(StoreFailure):
    """There is no connection, or it was closed before the answer."""

    code = "store_unreachable"


class StoreSlow(StoreFailure):
    """Not sent: the circuit breaker is open because the server answers too late."""

    code = "store_slow"


class _Waiting:
    """One request: the number of replies it needs and the replies so far."""

    __slots__ = ("future", "got", "need", "sent")

    def __init__(self, future: asyncio.Future[list[Any]], need: int) -> None:
        self.future = future
        self.need = need
        self.got: list[Any] = []
        self.sent = time.monotonic()


class _RedisSocket(asyncio.Protocol):
    """One connection; replies go to the requests in the order they were sent."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.heard = 0.0
        self._replies = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting: deque[_Waiting] = deque()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, request: bytes, need: int) -> _Waiting:
        if self.closed.done():
            raise StoreUnreachable("the connection to the online store has ended")
        if len(self._waiting) >= MAX_WAITING:
            raise StoreUnreachable(
                f"{MAX_WAITING} requests already wait for the online store",
                todo="start more scorers, or find out why the store is slow",
            )
        waiting = _Waiting(asyncio.get_running_loop().create_future(), need)
        self._waiting.append(waiting)
        self._transport.write(request)
        return waiting

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()
        try:
            self._replies.feed(data)
            while self._waiting:
                reply = self._replies.gets()
                if reply is _NOTHING:
                    return
                waiting = self._waiting[0]
                waiting.got.append(reply)
                if len(waiting.got) == waiting.need:
                    self._waiting.popleft()
                    if not waiting.future.done():
                        waiting.future.set_result(waiting.got)
        except hiredis.ProtocolError:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        why = f"the connection to the online store ended: {exc or 'closed by the server, or silent'}"
        for waiting in self._waiting:
            if not waiting.future.done():
                waiting.future.set_exception(StoreUnreachable(why))
                waiting.future.exception()  # mark as retrieved: the caller may have timed out
        self._waiting.clear()
        if not self.closed.done():
            self.closed.set_result(None)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class StoreConnection:
    """A reconnecting connection with a circuit breaker.

    `url` is a Redis URL, `lane` the label in metrics and logs, `limit` the seconds in which a probe must be answered.

    Why not redis.asyncio: the read of one payment (three HMGETs, 4.4 kB of replies) costs the client 75 to 100 us of
    CPU alone and 40 to 55 us with 20 in flight; a pipeline of redis.asyncio costs 240 to 275 us and 165 to 175 us.
    """

    def __init__(self, url: str, lane: str, limit: float = OPEN_SECONDS) -> None:
        self._address = RedisAddress.parse(url)
        self._lane = lane
        self._limit = min(limit, OPEN_SECONDS)
        self._breaker = Breaker()
        self._socket: _RedisSocket | None = None
        """The connection in use; None while there is none or the breaker is open."""
        self._used_since = 0.0
        self._sample = _PING
        self._ready = asyncio.Event()
        self._tripped = asyncio.Event()
        self._connector: asyncio.Task[None] | None = None
        self._seconds = metrics.STORE_SECONDS.labels(lane)
        self._log_again_at = 0.0
        self._failure: StoreFailure = StoreUnreachable("no connection: not connected yet")

    @property
    def problem(self) -> str:
        """Why requests fail without being sent; empty if they are sent."""
        return "" if self._socket is not None else str(self._failure)

    async def start(self, wait: float = OPEN_SECONDS) -> None:
        """Start to connect, and wait up to `wait` seconds for it; an unreachable server is not an error."""
        metrics.STORE_CONNECTED.labels(self._lane).set(0)
        metrics.BREAKER_OPEN.labels(self._lane).set(1)
        self._connector = asyncio.create_task(self._keep_connected(), name=f"store-{self._lane}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ready.wait(), wait)

    async def stop(self) -> None:
        """Close the connection; waiting requests fail."""
        if self._connector is not None:
            self._connector.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connector
            self._connector = None

    async def send(self, request: bytes, replies: int, seconds: float) -> list[Any]:
        """Send packed commands and return their replies; `replies` is the number of commands, `seconds` the time limit.

        Raises `StoreTimeout`, `StoreUnreachable` or `StoreSlow` without an answer, `OnlineStoreError` for an error
        reply.
        """
        socket = self._socket
        if socket is None:
            raise type(self._failure)(str(self._failure))
        if seconds <= 0:
            raise ScorerDelayed("the time limit had passed before the online store could be asked")
        began = time.perf_counter()
        try:
            got = await _send(socket, request, replies, seconds)
        except ScorerDelayed:
            raise
        except StoreTimeout as error:
            if began >= self._used_since:
                self._count_miss(error)
            raise
        finally:
            self._seconds.observe(time.perf_counter() - began)
        self._breaker.answered()
        for reply in got:
            if isinstance(reply, Exception):
                raise OnlineStoreError(
                    f"the server refused a read: {reply}",
                    where=self._address,
                    todo="check the server's memory, the user's rights and the types of the keys",
                )
        self._sample = request, replies
        return got

    def send_nowait(self, request: bytes, replies: int) -> None:
        """Send packed commands without waiting for the replies; later requests of this connection see their effect.

        Error replies, and commands that could not be sent, are counted, and logged once a minute at most.
        """
        if self._socket is None:
            metrics.NOT_WRITTEN.inc()
            return
        try:
            pending = self._socket.send(request, replies)
        except StoreUnreachable:
            metrics.NOT_WRITTEN.inc()
            return
        pending.future.add_done_callback(self._after_write)

    def _after_write(self, future: asyncio.Future[list[Any]]) -> None:
        failed = future.exception() if not future.cancelled() else None
        refused = failed or next((r for r in future.result() if isinstance(r, Exception)), None)
        if refused is None:
            return
        metrics.NOT_WRITTEN.inc()
        if time.monotonic() >= self._log_again_at:
            self._log_again_at = time.monotonic() + LOG_EVERY_SECONDS
            log.warning(
                "store.not_written",
                lane=self._lane,
                why=str(refused),
                todo="give the scorer's user the right to write millstream:pending:*, and check the server's memory",
            )

    def _count_miss(self, error: StoreTimeout) -> None:
        self._breaker.missed(time.perf_counter())
        if self._breaker.is_open and self._socket is not None:
            self._stop_using(
                StoreSlow(
                    f"not asked: it answers too late ({error}); it is probed, and asked again once it answers in time",
                    where=self._address,
                ),
                "slow",
            )
            self._tripped.set()

    def _start_using(self, socket: _RedisSocket) -> None:
        self._socket, self._used_since = socket, time.perf_counter()
        self._tripped.clear()
        self._ready.set()
        metrics.BREAKER_OPEN.labels(self._lane).set(0)
        log.info("store.used", lane=self._lane, at=str(self._address))

    def _stop_using(self, why: StoreFailure, kind: str) -> None:
        """Let requests fail with `why` from now on."""
        self._failure = why
        if self._socket is None:
            return
        self._socket = None
        self._breaker.open(time.perf_counter())
        metrics.BREAKER_OPEN.labels(self._lane).set(1)
        metrics.BREAKER_OPENED.labels(self._lane, kind).inc()
        log.warning("store.not_asked", lane=self._lane, at=str(self._address), why=str(why))

    async def _keep_connected(self) -> None:
        """Open a connection, probe it, put it into use, and start again when it ends; delays grow and are jittered."""
        wait, reported = FIRST_DELAY, False
        connected = metrics.STORE_CONNECTED.labels(self._lane)
        self._breaker.open(time.perf_counter())
        while True:
            socket, began = None, time.perf_counter()
            try:
                socket = await self._open()
                connected.set(1)
                while True:
                    await self._until_probe_passes(socket)
                    self._start_using(socket)
                    reported = False
                    await self._until_breaker_opens(socket)
            except (OSError, TimeoutError, OnlineStoreError) as error:
                why = str(error) or type(error).__name__
                if socket is not None:
                    metrics.STORE_LOST.labels(self._lane).inc()
                elif not reported:
                    log.warning("store.unreachable", lane=self._lane, at=str(self._address), why=why)
                    reported = True
                self._stop_using(
                    StoreUnreachable(
                        f"no connection: {why}", where=self._address, todo="start it, or correct REDIS_URL"
                    ),
                    "lost",
                )
            finally:
                connected.set(0)
                self._socket = None
                if socket is not None:
                    socket.abort()
            if socket is not None and time.perf_counter() - began > OPEN_SECONDS:
                wait = FIRST_DELAY
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, LONGEST_DELAY)

    async def _until_probe_passes(self, socket: _RedisSocket) -> None:
        """Repeat the last successful read until the breaker closes; raises `StoreTimeout` if there is no answer."""
        while True:
            began = time.perf_counter()
            request, replies = self._sample
            try:
                await _send(socket, request, replies, OPEN_SECONDS)
            except ScorerDelayed:
                continue
            now = time.perf_counter()
            in_time = now - began <= self._limit
            if self._breaker.probed(in_time, now):
                return
            if not in_time:
                self._failure = StoreSlow(
                    f"not asked: a probe was answered after {(now - began) * 1000:.0f} ms, and only "
                    f"{self._limit * 1000:.0f} ms are allowed",
                    where=self._address,
                )
            await asyncio.sleep(PROBE_SECONDS)

    async def _until_breaker_opens(self, socket: _RedisSocket) -> None:
        """Wait until the breaker opens; raises `StoreUnreachable` if the connection ends first."""
        tripped = asyncio.ensure_future(self._tripped.wait())
        try:
            either: set[asyncio.Future[Any]] = {tripped, socket.closed}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tripped.cancel()
        if socket.closed.done():
            raise StoreUnreachable("the connection ended")

    async def _open(self) -> _RedisSocket:
        """Open a connection and wait for the replies to its handshake."""
        loop, address = asyncio.get_running_loop(), self._address
        until = time.perf_counter() + OPEN_SECONDS
        async with asyncio.timeout(OPEN_SECONDS):
            if address.path:
                _, socket = await loop.create_unix_connection(_RedisSocket, address.path)
            else:
                _, socket = await loop.create_connection(
                    _RedisSocket, address.host, address.port, ssl=address.tls_context
                )
        try:
            handshake = address.handshake
            replies = await _send(socket, pack(handshake), len(handshake), until - time.perf_counter())
            for reply in replies:
                if isinstance(reply, Exception):
                    raise OnlineStoreError(  # noqa: TRY301  the socket must be closed for this one too
                        f"the server refuses the connection: {reply}",
                        where=address,
                        todo="correct user, password or database",
                    )
        except BaseException:
            socket.abort()
            raise
        return socket


async def _send(socket: _RedisSocket, request: bytes, replies: int, seconds: float) -> list[Any]:
    loop = asyncio.get_running_loop()
    waiting = socket.send(request, replies)
    # A delayed loop runs timers before it reads sockets: the answer may have arrived, so look again after `_GRACE`.
    timer = loop.call_later(
        max(seconds, 0.0), lambda: loop.call_later(_GRACE, _time_out, socket, waiting, seconds)
    )
    try:
        return await waiting.future
    finally:
        timer.cancel()


def _time_out(socket: _RedisSocket, waiting: _Waiting, seconds: float) -> None:
    if waiting.future.done():
        return
    if time.monotonic() - waiting.sent > seconds + DELAYED_SECONDS:
        waiting.future.set_exception(
            ScorerDelayed("the scorer was delayed, and did not read the store's answer in time")
        )
        return
    waiting.future.set_exception(
        StoreTimeout(f"no answer from the online store within {seconds * 1000:.0f} ms")
    )
    if socket.heard < waiting.sent:
        socket.abort()
