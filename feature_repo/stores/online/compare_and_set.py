"""Compare-and-set of many keys with a Lua script; used by the writers of window states and of plain rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from feature_repo.errors import OnlineStoreError
from feature_repo.stores.online.script_calls import Calls


class ScriptedWrites:
    """Sends calls of a script that takes `head` and then each key's arguments, and returns how many keys it wrote.

    `client` is a redis-py client with `decode_responses` off. Only its connections are used: they know addresses,
    passwords, TLS and timeouts, and cost a few microseconds, while redis-py's pipelines would process every argument.
    """

    def __init__(self, client: Any, script: str, head: Sequence[Any], what: str) -> None:
        self.head = head
        self.sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        self._client = client
        self._script = script
        self._what = what

    def send(self, parts: Callable[[], Iterable[Calls]]) -> int:
        """Send all calls in one round trip; return how many keys were written. Raises `OnlineStoreError`.

        Pieces are built one after the other: the server works on one while the next is built.
        """
        from redis.exceptions import NoScriptError, RedisError

        try:
            try:
                return self._exchange(parts())
            except NoScriptError:  # a server that was restarted, or never asked
                self._client.script_load(self._script)
                return self._exchange(parts())
        except RedisError as error:
            msg = f"{self._what} could not be written: {error}"
            raise OnlineStoreError(
                msg, where="Redis", todo="see that the server at REDIS_URL runs and has memory"
            ) from error

    def _exchange(self, parts: Iterable[Calls]) -> int:
        from redis.exceptions import ResponseError

        pool = self._client.connection_pool
        connection = pool.get_connection()
        written, sent, refused = 0, 0, None
        try:
            for calls in parts:
                connection.send_packed_command(calls.pieces())
                sent += calls.calls
            for _ in range(sent):  # all of them, or the connection is of no use to the next
                try:
                    written += connection.read_response()
                except ResponseError as error:
                    refused = refused or error
        finally:
            pool.release(connection)
        if refused is not None:
            raise refused
        return written
