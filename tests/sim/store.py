"""The Redis server behind the online store: hashes, and the script that writes a state only if it is newer.

A client is what redis-py's is to the sinks: a few commands, and connections they put packed commands on. What is sent
is carried out when an answer is awaited, or some time before; a connection may break with some of it done, and so it
does when its process dies. The script itself is tested against a real server
(`tests/feature_repo/stores/online/test_script_calls.py`); here only what it decides counts.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager
from random import Random
from typing import Any, Self

from redis.exceptions import ConnectionError as LostError
from redis.exceptions import NoScriptError


class Server:
    """The hashes; `draw` decides when connections break."""

    def __init__(self, draw: Random) -> None:
        self.hashes: dict[bytes, dict[bytes, bytes]] = {}
        self.scripts: set[str] = set()
        self.writes = 0
        self._draw = draw
        self._connections: list[Connection] = []

    def connection(self) -> Connection:
        made = Connection(self, self._draw)
        self._connections.append(made)
        return made

    def carry_out_some(self) -> None:
        """Work on what connections have sent."""
        for connection in self._connections:
            connection.carry_out(self._draw.randint(0, 3))

    def crash_of_clients(self) -> None:
        """What they had sent is carried out in part."""
        for connection in self._connections:
            connection.carry_out(self._draw.randint(0, 20))
        self._connections = []

    def do(self, arguments: list[bytes]) -> Any:
        """One packed command."""
        name, sha, count, *rest = arguments
        assert name == b"EVALSHA", name
        if sha.decode() not in self.scripts:
            return NoScriptError("NOSCRIPT")
        return self._write(rest[: int(count)], rest[int(count) :])

    def _write(self, keys: list[bytes], arguments: list[bytes]) -> int:
        n = int(arguments[0])
        states, times = arguments[1 : 1 + n], arguments[1 + n : 1 + 2 * n]
        behind, written = arguments[2 * n + 2] == b"1", 0
        for i, key in enumerate(keys):
            at = 2 * n + 3 + 2 * n * i
            held = self.hashes.setdefault(key, {})
            new: dict[bytes, bytes] = {}
            for v in range(n):
                old, state = held.get(states[v]), arguments[at + v]
                if old is None or old[8:16] != state[8:16] or _version(old) < _version(state):
                    new[states[v]] = state
                    if not (behind and times[v] in held):
                        new[times[v]] = arguments[at + n + v]
            held.update(new)
            written += bool(new)
        self.writes += written
        return written


def _version(state: bytes) -> int:
    found: int = struct.unpack_from("<q", state, 24)[0]
    return found


class Connection:
    """One connection: commands are carried out in their order."""

    def __init__(self, server: Server, draw: Random) -> None:
        self._server, self._draw = server, draw
        self._sent: deque[list[bytes]] = deque()
        self._answers: deque[Any] = deque()

    def send_packed_command(self, pieces: Iterable[Any]) -> None:
        self._sent.extend(commands_of(b"".join(bytes(piece) for piece in pieces)))

    def carry_out(self, count: int) -> None:
        for _ in range(min(count, len(self._sent))):
            self._answers.append(self._server.do(self._sent.popleft()))

    def read_response(self) -> Any:
        if self._draw.random() < 0.01:
            self.carry_out(self._draw.randint(0, len(self._sent)))
            self.disconnect()
            raise LostError("the connection broke")
        if not self._answers:
            self.carry_out(len(self._sent))
        answer = self._answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def disconnect(self) -> None:
        self._sent.clear()
        self._answers.clear()


def commands_of(data: bytes) -> list[list[bytes]]:
    r"""Packed commands taken apart.

    >>> commands_of(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")
    [[b'GET', b'k']]
    """
    commands, at = [], 0
    while at < len(data):
        end = data.index(b"\r\n", at)
        count, at = int(data[at + 1 : end]), end + 2
        arguments = []
        for _ in range(count):
            end = data.index(b"\r\n", at)
            length, at = int(data[at + 1 : end]), end + 2
            arguments.append(data[at : at + length])
            at += length + 2
        commands.append(arguments)
    return commands


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


class Client:
    """A redis-py client of one process, with the methods that our sinks use.

    It is its own connection pool and its own pipeline.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.connection_pool = self

    def get_connection(self) -> Connection:
        return self._server.connection()

    def release(self, connection: Connection) -> None:
        del connection

    def script_load(self, script: str) -> str:
        import hashlib

        sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        self._server.scripts.add(sha)
        return sha

    def hkeys(self, key: str) -> list[bytes]:
        return list(self._hash(key))

    def hgetall(self, key: str) -> dict[bytes, bytes]:
        return dict(self._hash(key))

    def hmget(self, key: str, names: list[str]) -> list[bytes | None]:
        return [self._hash(key).get(_bytes(name)) for name in names]

    def hset(self, key: str, mapping: dict[str, Any]) -> None:
        self._hash(key).update({_bytes(name): _bytes(value) for name, value in mapping.items()})

    def hdel(self, key: str, *names: str) -> None:
        for name in names:
            self._hash(key).pop(_bytes(name), None)

    def pipeline(self, *, transaction: bool) -> AbstractContextManager[Self]:
        del transaction
        return self  # type: ignore[return-value]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def execute(self) -> None:
        return

    def _hash(self, key: str) -> dict[bytes, bytes]:
        return self._server.hashes.setdefault(_bytes(key), {})
