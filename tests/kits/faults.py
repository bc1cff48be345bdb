"""What fault trials share: a TCP proxy that is slow, silent or rude, a steady load, and a scorer behind the proxy.

The proxy stands between real processes: the scorer and a Valkey server. The load is open: a request is sent when its time has come,
whether or not the ones before it were answered, as payments are made whether or not a scorer is well.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import signal
import socket
import struct
import threading
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import orjson
import redis

from flows.local.redis_server import EmbeddedServer

PATIENCE: Final = 20.0
"""Seconds a client waits for an answer."""


class Proxy:
    """Passes bytes on to `port`; `delay` seconds late to the client, not at all while `frozen`, cut off now and then while `resetting`.

    Runs in a thread of its own; its settings may be changed at any time and count for what arrives from then on.
    """

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self.frozen = False
        self.resetting = False
        self.opened = 0
        self.open_now = 0
        self._to = port
        self._loop = asyncio.new_event_loop()
        self._clients: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._listening = threading.Event()
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def url(self) -> str:
        """Of the server, through this proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    def reset_all(self) -> None:
        """Every connection ends with a TCP reset, now."""
        self._loop.call_soon_threadsafe(self._reset_all)

    def _reset_all(self) -> None:
        for client in list(self._clients):
            made = client.get_extra_info("socket")
            if made is not None and made.fileno() >= 0:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.create_task(self._reset_now_and_then())
        self._loop.run_forever()

    async def _reset_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(0.03)
            if self.resetting:
                self._reset_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.open_now += 1
        self._clients.add(writer)
        other: asyncio.StreamWriter | None = None
        try:
            back, other = await asyncio.open_connection("127.0.0.1", self._to)
            await asyncio.gather(self._pass(reader, other, late=False), self._pass(back, writer, late=True))
        except OSError:
            pass
        finally:
            self.open_now -= 1
            self._clients.discard(writer)
            for end in (writer, other):
                if end is not None:
                    end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: bool) -> None:
        due: collections.deque[tuple[float, bytes]] = collections.deque()
        more = asyncio.Event()

        async def send() -> None:
            while True:
                while not due:
                    more.clear()
                    await more.wait()
                at, data = due.popleft()
                await asyncio.sleep(at - time.monotonic())
                while self.frozen:  # noqa: ASYNC110  another thread sets it
                    await asyncio.sleep(0.005)
                writer.write(data)

        sender = asyncio.create_task(send())
        try:
            while data := await reader.read(65_536):
                due.append((time.monotonic() + (self.delay if late else 0.0), data))
                more.set()
            raise ConnectionResetError
        finally:
            sender.cancel()


@dataclass
class Said:
    """One answer: HTTP status (0: none), seconds from when it was due, and body."""

    status: int
    seconds: float
    body: Any

    @property
    def codes(self) -> tuple[str, ...]:
        """Why it is degraded."""
        if self.status != 200:
            return ()
        return tuple(reason["code"] for reason in self.body["degraded_reasons"])


@dataclass
class Tally:
    """What a load was answered, counted as it comes."""

    n: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    """Answers by the reason they are degraded for; "" are those that are not."""
    versions: Counter[str] = field(default_factory=Counter)
    degraded: int = 0
    seconds: array[float] = field(default_factory=lambda: array("d"))

    def add(self, said: Said) -> None:
        self.n += 1
        self.statuses[said.status] += 1
        self.seconds.append(said.seconds)
        if said.status == 200:
            self.degraded += said.body["degraded"]
            self.codes.update(said.codes or ("",))
            self.versions[(said.body["model"] or {"version": ""})["version"]] += 1

    def within(self, seconds: float) -> float:
        """Share of answers within a time."""
        return sum(s <= seconds for s in self.seconds) / max(1, self.n)

    def quantile(self, q: float) -> float:
        """Milliseconds."""
        return 1000 * sorted(self.seconds)[min(self.n - 1, int(q * self.n))]

    def __str__(self) -> str:
        return (
            f"{self.n:,} answers {dict(self.statuses)}, {self.degraded:,} degraded {dict(self.codes)}, "
            f"p50 {self.quantile(0.5):.0f} p99 {self.quantile(0.99):.0f} max {self.quantile(1):.0f} ms"
        )


class Client:
    """Keep-alive connections to one scorer, as many as answers are awaited at once."""

    def __init__(self, address: str) -> None:
        self._at = urlsplit(address)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, payment: dict[str, Any], due: float) -> Said:
        """One POST /score."""
        try:
            async with asyncio.timeout(PATIENCE):
                status, body = await self._post(orjson.dumps(payment))
        except (OSError, EOFError, TimeoutError):
            return Said(0, time.perf_counter() - due, None)
        return Said(status, time.perf_counter() - due, orjson.loads(body))

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                try:
                    return await self._over(reader, writer, body)
                except (ConnectionError, asyncio.IncompleteReadError) as error:
                    if getattr(error, "partial", b""):
                        raise  # the server hangs up on idle connections, but never within an answer
        reader, writer = await asyncio.open_connection(self._at.hostname, self._at.port)
        return await self._over(reader, writer, body)

    async def _over(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
    ) -> tuple[int, bytes]:
        try:
            writer.write(
                b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:-2])}
            said = await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            writer.transport.abort()
            raise
        if headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(head[0].split()[1]), said

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def load(client: Client, payments: Sequence[dict[str, Any]], *, rate: float, requests: int) -> Tally:
    """`requests` payments in turn, `rate` a second; returns when all are answered."""
    tally, waiting = Tally(), set[asyncio.Task[None]]()

    async def ask(i: int, due: float) -> None:
        tally.add(await client.ask(payments[i % len(payments)], due))

    began = time.perf_counter()
    for i in range(requests):
        due = began + i / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(ask(i, due))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
    await asyncio.gather(*waiting)
    return tally


async def seconds_until_well(client: Client, payment: dict[str, Any], patience: float = 20.0) -> float:
    """How long until three answers in a row are not degraded."""
    began, good = time.perf_counter(), 0
    since = began
    while good < 3:
        asked = time.perf_counter()
        said = await client.ask(payment, asked)
        if said.status == 200 and not said.body["degraded"]:
            since = since if good else asked
            good += 1
        else:
            good = 0
        assert asked - began < patience, said
        await asyncio.sleep(0.02)
    return since - began


@contextlib.asynccontextmanager
async def clients(address: str) -> AsyncIterator[Client]:
    """A client that is closed."""
    client = Client(address)
    try:
        yield client
    finally:
        client.close()


def pid_of(url: str) -> int:
    """The server's process."""
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def port_of(url: str) -> int:
    return urlsplit(url).port or 6379


@contextlib.contextmanager
def stopped(server: EmbeddedServer) -> Iterator[None]:
    """The server's process is gone, and started again on the same port."""
    port = port_of(server.url)
    with contextlib.suppress(redis.ConnectionError):
        redis.Redis.from_url(server.url).shutdown(nosave=True, now=True, force=True)
    try:
        yield
    finally:
        assert server._launch(port)


@contextlib.contextmanager
def suspended(server: EmbeddedServer) -> Iterator[None]:
    """The server's process is stopped with SIGSTOP; its sockets stay open."""
    pid = pid_of(server.url)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def out_of_memory(server: EmbeddedServer) -> Iterator[None]:
    """The server refuses every write."""
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


@contextlib.contextmanager
def changed(proxy: Proxy, **settings: Any) -> Iterator[None]:
    """The proxy's settings, for a while."""
    before = {name: getattr(proxy, name) for name in settings}
    for name, value in settings.items():
        setattr(proxy, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(proxy, name, value)


def scorer_pid(home: Path) -> int:
    """Of the scorer that writes its score log here."""
    newest = max((home / "scores").glob("*.jsonl"), key=lambda path: path.name)
    return int(newest.stem.rpartition("-")[2])


def resident_mb(pid: int) -> float:
    """Resident memory of a process, MiB; Linux only."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError(pid)
