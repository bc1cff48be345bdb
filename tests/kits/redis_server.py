"""An embedded Redis server under faults: killed, stopped, suspended, out of memory, emptied."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from flows.local.redis_server import EmbeddedServer
from tests.kits.waiting import wait_until


class BreakableServer(EmbeddedServer):
    """An embedded server that can be killed as by a power cut, and started again at the same address from an older
    file.
    """

    def kill(self) -> None:
        """Kill -9; the append-only file stays as it is."""
        os.kill(pid_of(self.url), signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    @property
    def file(self) -> Path:
        """The append-only file that the server writes to."""
        return max(self.folder.glob("appendonlydir/*.incr.aof"), key=lambda path: path.stat().st_mtime)

    def start_again(self, file_bytes: int | None = None) -> None:
        """Start from the first `file_bytes` of the append-only file, by default from all of it."""
        if file_bytes is not None:
            os.truncate(self.file, file_bytes)
        assert self._launch(port_of(self.url)), "the server does not start again"


def wipe(server: BreakableServer, client: redis.Redis, *, flush: bool) -> None:
    """Remove all data: with FLUSHALL, or by starting an empty server at the same address."""
    if flush:
        client.flushall()
        return
    server.kill()
    shutil.rmtree(server.folder / "appendonlydir")
    server.start_again()


def pid_of(url: str) -> int:
    """The process id of the server at `url`."""
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def port_of(url: str) -> int:
    """The port in a URL, by default that of Redis."""
    return urlsplit(url).port or 6379


@contextlib.contextmanager
def stopped(server: EmbeddedServer) -> Iterator[None]:
    """Shut the server down for the block; start it again on the same port."""
    port = port_of(server.url)
    with contextlib.suppress(redis.ConnectionError):
        redis.Redis.from_url(server.url).shutdown(nosave=True, now=True, force=True)
    try:
        yield
    finally:
        assert server._launch(port)


@contextlib.contextmanager
def suspended(url: str) -> Iterator[None]:
    """Stop the process of a server with SIGSTOP for the block; its sockets stay open, and nothing answers."""
    pid = pid_of(url)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def out_of_memory(server: EmbeddedServer) -> Iterator[None]:
    """Make the server refuse every write for the block."""
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


def rewrite_append_only_file(client: Any) -> None:
    """Have the server rewrite its append-only file as plain commands, so that a search finds every text in it."""
    client.config_set("aof-use-rdb-preamble", "no")
    client.bgrewriteaof()

    def done() -> bool:
        state = client.info("persistence")
        return not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]

    wait_until(done, 60, "the rewritten append-only file")
    assert client.info("persistence")["aof_last_bgrewrite_status"] == "ok"
