"""Pipelined writes to the online store: commands are sent at once, their replies are read later.

If each fold part waited for each reply, a worker would wait for the server once per part and cycle; on a busy machine
that was most of the time until a feature was readable. So all parts of a worker share one connection, on which the
server runs the commands in order, and only the end of an epoch waits for the replies. If anything fails in between
(server gone, script unknown, out of memory), every call without a reply is sent again with retries. Writes are
compare-and-set, so sending one twice changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from feature_repo.stores.online.script_calls import Calls

MAX_CALLS: Final = 2_000
MAX_BYTES: Final = 1 << 20
"""Most calls, and bytes of calls, without a reply.

At the limit the outbox waits until half is answered, so the server always has work; states that change meanwhile are
written once. With 16 times these limits, features took longer to become readable.
"""

Resend = Callable[[Calls], object]
"""Sends calls again and waits for their replies, with retries."""


@dataclass(frozen=True, slots=True)
class _Sent:
    calls: Calls
    resend: Resend


class Outbox:
    """One connection of a redis-py client, used by one worker."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._connection: Any = None
        self._unanswered: deque[_Sent] = deque()
        self._calls = self._bytes = 0

    def post(self, calls: Calls, resend: Resend) -> None:
        """Send calls; `resend` repeats them if they fail. Raises what `resend` raises."""
        if not calls.calls:
            return
        self._unanswered.append(_Sent(calls, resend))
        self._calls += calls.calls
        self._bytes += len(calls.data)
        try:
            self._connect().send_packed_command(calls.pieces())
        except RedisError:
            self._resend_all()
        if self._calls >= MAX_CALLS or self._bytes >= MAX_BYTES:
            self._read_replies(MAX_CALLS // 2, MAX_BYTES // 2)

    def flush(self) -> None:
        """Wait until the server has answered every call. Raises what `resend` raises."""
        self._read_replies(0, 0)

    def call(self, *command: str | int) -> Any:
        """Flush, then return the reply to one command. Raises redis-py's errors."""
        self.flush()
        try:
            self._connect().send_command(*command)
            return self._connection.read_response()
        except ResponseError:
            raise
        except RedisError:
            self._disconnect()
            raise

    def _connect(self) -> Any:
        if self._connection is None:
            self._connection = self._client.connection_pool.get_connection()
        return self._connection

    def _disconnect(self) -> None:
        """Drop the socket, whose replies no longer match the calls. redis-py connects again on the next command."""
        if self._connection is not None:
            self._connection.disconnect()

    def _read_replies(self, max_calls: int, max_bytes: int) -> None:
        """Read replies until at most this much is unanswered; they arrive in the order of the calls."""
        try:
            while self._calls > max_calls or self._bytes > max_bytes:
                calls = self._unanswered[0].calls
                for _ in range(calls.calls):
                    self._connection.read_response()
                self._unanswered.popleft()
                self._calls -= calls.calls
                self._bytes -= len(calls.data)
        except RedisError:
            self._resend_all()

    def _resend_all(self) -> None:
        self._disconnect()
        for sent in self._unanswered:
            sent.resend(sent.calls)
        self._unanswered.clear()
        self._calls = self._bytes = 0
