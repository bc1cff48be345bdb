"""A TCP proxy between two real processes that can be slow, silent, or reset its connections."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any, Self


class Proxy:
    """Passes bytes on to `port` of loopback, in a thread of its own.

    Bytes reach the client `delay` seconds late, not at all while `frozen`; while `resetting`, all connections are
    reset every 30 ms. These settings may change at any time; they hold for what arrives from then on.
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
        """The address of the server behind this proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    def reset_all(self) -> None:
        """End every connection with a TCP reset."""
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


@contextlib.contextmanager
def changed(proxy: Proxy, **settings: Any) -> Iterator[None]:
    """Change settings of the proxy for the block."""
    before = {name: getattr(proxy, name) for name in settings}
    for name, value in settings.items():
        setattr(proxy, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(proxy, name, value)
