"""States on their way to the online store: sent at once, their answers read later.

A part that waited for each answer would wait for the server as often as there are parts, in every cycle of the flow: on a busy machine
that is where most of the time until a feature is readable goes. So all parts of a worker share one connection, on which commands are
carried out in their order, and only the end of an epoch waits for the answers. Whatever goes wrong in between (the server is gone,
it does not know the script, it has no memory), all that was not answered for is sent again, patiently: writes are compare-and-set,
so a second time changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError, ResponseError

from feature_repo.stores.online.script_calls import Calls
from flows.sources.redis_socket import receive

MOST_CALLS: Final = 2_000
MOST_BYTES: Final = 1 << 20
"""Unanswered calls, and their bytes, that are kept: then the older half is waited for, so the server always has work, and what waits
meanwhile is folded together and written once. While states are small, features were readable sooner than with sixteen times as much on
its way."""
MOST_NEW: Final = 16_000
MOST_NEW_BYTES: Final = 6_000_000
"""The same for commands that make keys: one piece is packed while the server works on another."""
_ANSWER: Final = len(b"+OK\r\n")

Again = Callable[[Calls], object]
"""Sends calls and waits for their answers; how `Outbox` repeats what failed."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """What is on its way, and what is sent, patiently, if it fails. `made`: commands that are answered with OK, or have failed."""

    calls: Calls
    rows: Calls
    again: Again
    made: bool = False


class Outbox:
    """One connection of a redis-py client, for one worker."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._connection: Any = None
        self._unanswered: deque[_Sent] = deque()
        self._calls = self._bytes = 0

    def post(self, calls: Calls, again: Again) -> None:
        """Send calls. Raises what `again` raises."""
        if calls.calls:
            self._send(_Sent(calls, calls, again))
            if self._calls >= MOST_CALLS or self._bytes >= MOST_BYTES:
                self._wait(MOST_CALLS // 2, MOST_BYTES // 2)

    def post_new(self, new: Calls, rows: Calls, again: Again) -> None:
        """Send commands that each make a key; if one is refused, `rows`, the same as compare-and-set. Raises what `again` raises."""
        if new.calls:
            self._send(_Sent(new, rows, again, made=True))
            self._wait(MOST_NEW, MOST_NEW_BYTES)

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

    def _send(self, sent: _Sent) -> None:
        if self._unanswered and self._unanswered[-1].made != sent.made:
            self.settle()  # the answers of one kind are read by redis-py, those of the other by us
        self._unanswered.append(sent)
        self._calls += sent.calls.calls
        self._bytes += len(sent.calls.data)
        try:
            if self._connection is None:
                self._connection = self._client.connection_pool.get_connection()
            self._connection.send_packed_command(sent.calls.pieces())
        except RedisError:
            self._repeat()

    def _wait(self, most_calls: int, most_bytes: int) -> None:
        """Until no more than so much is unanswered: answers come in the order of the calls."""
        try:
            while self._calls > most_calls or self._bytes > most_bytes:
                sent = self._unanswered[0]
                if sent.made:
                    if not self._all_made(sent.calls.calls):
                        sent.again(sent.rows)
                else:
                    for _ in range(sent.calls.calls):
                        self._connection.read_response()
                self._unanswered.popleft()
                self._calls -= sent.calls.calls
                self._bytes -= len(sent.calls.data)
        except RedisError:
            self._repeat()

    def _all_made(self, commands: int) -> bool:
        """Whether so many commands are answered with OK; an object per answer would cost more than the server's work."""
        made, begun = True, 0
        buffer = memoryview(bytearray(min(_ANSWER * commands, 1 << 16)))
        while commands:
            # An answer has five bytes or more: so this is never a byte more than these commands'.
            most = _ANSWER * commands - min(begun, _ANSWER - 1)
            answers = bytes(buffer[: receive(self._connection, buffer[:most])])
            made = made and b"-" not in answers
            ended = answers.count(b"\n")
            commands -= ended
            begun = len(answers) - answers.rfind(b"\n") - 1 + (0 if ended else begun)
        return made

    def _repeat(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
        for sent in self._unanswered:
            sent.again(sent.rows)
        self._unanswered.clear()
        self._calls = self._bytes = 0
