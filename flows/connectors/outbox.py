"""States on their way to the online store: sent at once, their answers read later.

A part that waited for each answer would wait for the server as often as there are parts, in every cycle of the flow: on a busy machine
that is where most of the time until a feature is readable goes. So all parts of a worker share one connection, on which commands are
carried out in their order, and only the end of an epoch waits for the answers. Whatever goes wrong in between (the server is gone,
it does not know the script, it has no memory), all that was not answered for is sent again, patiently: writes are compare-and-set,
so a second time changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from feature_repo.stores.commands import Calls

MOST_CALLS: Final = 2_000
MOST_BYTES: Final = 1 << 20
"""Unanswered calls, and their bytes, that are kept: then the older half is waited for, so the server always has work, and what waits
meanwhile is folded together and written once. While states are small, features were readable sooner than with sixteen times as much on
its way."""
_PIECE: Final = 1 << 20

Again = Callable[[Calls], object]
"""Sends calls and waits for their answers; how `Outbox` repeats what failed."""


class Outbox:
    """One connection of a redis-py client, for one worker."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._connection: Any = None
        self._unanswered: deque[tuple[Calls, Again]] = deque()
        self._calls = self._bytes = 0

    def post(self, calls: Calls, again: Again) -> None:
        """Send calls. Raises what `again` raises."""
        if not calls.calls:
            return
        self._unanswered.append((calls, again))
        self._calls += calls.calls
        self._bytes += len(calls.data)
        try:
            if self._connection is None:
                self._connection = self._client.connection_pool.get_connection()
            self._connection.send_packed_command(_pieces(calls))
        except RedisError:
            self._repeat()
        if self._calls >= MOST_CALLS or self._bytes >= MOST_BYTES:
            self._wait(MOST_CALLS // 2, MOST_BYTES // 2)

    def settle(self) -> None:
        """Wait until the server has answered for all that was sent. Raises what `again` raises."""
        self._wait(0, 0)

    def call(self, *command: str | int) -> Any:
        """The answer to one command, after everything else was answered for. Raises redis-py's errors."""
        self.settle()
        try:
            if self._connection is None:
                self._connection = self._client.connection_pool.get_connection()
            self._connection.send_command(*command)
            return self._connection.read_response()
        except ResponseError:
            raise
        except RedisError:
            if self._connection is not None:
                self._connection.disconnect()  # its answers are out of step; it connects again by itself
            raise

    def _wait(self, most_calls: int, most_bytes: int) -> None:
        """Until no more than so much is unanswered: answers come in the order of the calls."""
        try:
            while self._calls > most_calls or self._bytes > most_bytes:
                calls, _ = self._unanswered[0]
                for _ in range(calls.calls):
                    self._connection.read_response()
                self._unanswered.popleft()
                self._calls -= calls.calls
                self._bytes -= len(calls.data)
        except RedisError:
            self._repeat()

    def _repeat(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
        for calls, again in self._unanswered:
            again(calls)
        self._unanswered.clear()
        self._calls = self._bytes = 0


def _pieces(calls: Calls) -> Iterator[memoryview]:
    """A socket's timeout is for one piece, not for a flush of any size."""
    whole = memoryview(calls.data)  # type: ignore[arg-type]  # an array is a buffer, which its type does not say
    for start in range(0, len(whole), _PIECE):
        yield whole[start : start + _PIECE]
