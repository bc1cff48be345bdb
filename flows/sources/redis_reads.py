"""Shared reads of a worker's partitions: the partition that is asked first reads for all, in one round trip.

On a busy machine a round trip costs milliseconds, and the flow processes blocks that arrive in one turn together.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from flows.settings import FlowSettings
from flows.sources.redis_entries import NO_ENTRIES, Entries, EntryReader, UnexpectedReplyError
from flows.sources.redis_socket import receive


class Reading(Protocol):
    """A partition that reads one Redis stream forward."""

    stream: str

    def next_read(self) -> tuple[str, int]:
        """Return the entry after which another partition may read for this one, and the most entries (0: none)."""


_IDLE_READS: Final = 100
_IDLE_FACTOR: Final = 4


class BusReads:
    """One connection for the partitions of one worker."""

    def __init__(self, settings: FlowSettings) -> None:
        self._client = redis.Redis.from_url(
            settings.redis_url,
            socket_timeout=1.0,
            socket_connect_timeout=1.0,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._connection: Any = None
        self._reader = EntryReader(settings.block_events)
        self._partitions: list[Reading] = []
        self._ready: dict[str, Entries] = {}
        self._linger = timedelta(milliseconds=settings.linger_ms)
        self._idle = 0
        self._next = datetime.min.replace(tzinfo=UTC)

    def join(self, partition: Reading) -> None:
        """Read for this partition from now on."""
        self._partitions.append(partition)

    def leave(self, partition: Reading) -> None:
        """Stop reading for this partition; the last one closes the connection."""
        self._partitions.remove(partition)
        if not self._partitions:
            self._client.close()

    def next_look(self, now: datetime) -> datetime:
        """Return when to read again: the same time for all partitions, less often after a quiet while."""
        if self._next <= now:
            self._next = now + self._linger * (_IDLE_FACTOR if self._idle > _IDLE_READS else 1)
        return self._next

    def ready(self, partition: Reading) -> bool:
        """Whether entries of this partition have been read already."""
        return partition.stream in self._ready

    def read(self, partition: Reading, last_id: str, count: int) -> Entries:
        """Return up to `count` entries of a partition after `last_id`. Raises redis-py's errors."""
        found = self._ready.pop(partition.stream, None)
        return found if found is not None else self._read(partition, last_id, count)

    def _read(self, partition: Reading, last_id: str, count: int) -> Entries:
        others = [p for p in self._partitions if p is not partition and p.stream not in self._ready]
        wanted = [(p, *p.next_read()) for p in others]
        reading = [(partition, last_id, count), *(w for w in wanted if w[2])]
        commands = [("XREAD", "COUNT", n, "STREAMS", p.stream, last) for p, last, n in reading]
        try:
            connection = self._connected()
            connection.send_packed_command(connection.pack_commands(commands))
            found = [self._reader.read(self._receive) for _ in commands]
        except UnexpectedReplyError:
            self._drop()
            (reply,) = self.call(commands[0])
            return entries_of(reply)
        except BaseException:
            self._drop()
            raise
        self._idle = 0 if any(map(len, found)) else self._idle + 1
        for (other, *_), entries in zip(reading[1:], found[1:], strict=True):
            self._ready[other.stream] = entries
        return found[0]

    def call(self, *commands: tuple[str | int, ...]) -> list[Any]:
        """Send commands in one pipeline and return their raw replies.

        Drops the connection after an error: replies may be left in it.
        """
        try:
            connection = self._connected()
            connection.send_packed_command(connection.pack_commands(commands))
            return [connection.read_response() for _ in commands]
        except BaseException:
            self._drop()
            raise

    def _connected(self) -> Any:
        if self._connection is None:
            self._connection = self._client.connection_pool.get_connection()
        return self._connection

    def _drop(self) -> None:
        self._reader.reset()
        if self._connection is not None:
            self._connection.disconnect()  # it connects again by itself

    def _receive(self, buffer: memoryview) -> int:
        return receive(self._connection, buffer)


def entries_of(reply: Any) -> Entries:
    """Return the entries of an XREAD reply of one stream (None: no entries). Raises an error reply."""
    if isinstance(reply, Exception):
        raise reply
    return Entries.of(reply[0][1]) if reply else NO_ENTRIES
