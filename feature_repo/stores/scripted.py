"""Compare-and-set of many keys by a Lua script: what the writers of window states and of plain rows have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final

from feature_repo.errors import OnlineStoreError

BATCH: Final = 256
"""Keys per script call: long enough that the call costs little, short enough that Redis answers readers in between."""

Row = tuple[bytes, list[Any]]
"""Redis key, and the script's arguments for it."""


class ScriptedWrites:
    """Sends rows through a script that takes `head` and then each key's arguments, and returns how many keys it wrote."""

    def __init__(self, client: Any, script: str, head: Sequence[Any], what: str) -> None:
        self.head = head
        self._client = client
        self._script = script
        self._sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        self._what = what

    def send(self, rows: Sequence[Row]) -> int:
        """One pipelined round trip for all rows; returns how many keys were written. Raises `OnlineStoreError`."""
        from redis.exceptions import NoScriptError, RedisError

        try:
            try:
                return self._pipelined(rows)
            except NoScriptError:  # a server that was restarted, or never asked
                self._client.script_load(self._script)
                return self._pipelined(rows)
        except RedisError as error:
            msg = f"{self._what} could not be written: {error}"
            raise OnlineStoreError(
                msg, where="Redis", todo="see that the server at REDIS_URL runs and has memory"
            ) from error

    def _pipelined(self, rows: Sequence[Row]) -> int:
        with self._client.pipeline(transaction=False) as pipe:
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                keys = [key for key, _ in part]
                pipe.evalsha(self._sha, len(keys), *keys, *self.head, *(a for _, row in part for a in row))
            return int(sum(pipe.execute()))
