"""Reads of the bus that several partitions share: whoever is asked first reads for all of its worker, in one round trip.

On a busy machine a round trip costs milliseconds, and blocks that come in one turn of the flow are worked on together.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from flows.settings import FlowSettings
from flows.sources.redis_entries import NO_ENTRIES, Entries, EntryReader, StrangeReplyError
from flows.sources.redis_socket import receive


class Reading(Protocol):
    """A partition that reads one Redis stream forward."""

    stream: str

    def wants(self) -> tuple[str, int]:
        """When another one reads: the entry after which, and how many at most; 0 when it had rather not be read for now."""


_IDLE_READS: Final = 100
_IDLE_FACTOR: Final = 4


class BusReads:
    """One connection, for the partitions of one worker."""

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
        """Read for this partition, too."""
        self._partitions.append(partition)

    def leave(self, partition: Reading) -> None:
        """Do not any more; after the last the connection is closed."""
        self._partitions.remove(partition)
        if not self._partitions:
            self._client.close()

    def next_look(self, now: datetime) -> datetime:
        """When to look again if nothing waits: all partitions at the same time, and less often when nothing has come for a while."""
        if self._next <= now:
            self._next = now + self._linger * (_IDLE_FACTOR if self._idle > _IDLE_READS else 1)
        return self._next

    def ready(self, partition: Reading) -> bool:
        """Whether this partition has been read for."""
        return partition.stream in self._ready

    def read(self, partition: Reading, last_id: str, count: int) -> Entries:
        """The entries of a partition after one, `count` at most. Raises redis-py's errors."""
        found = self._ready.pop(partition.stream, None)
        return found if found is not None else self._read(partition, last_id, count)

    def _read(self, partition: Reading, last_id: str, count: int) -> Entries:
        others = [p for p in self._partitions if p is not partition and p.stream not in self._ready]
        wanted = [(p, *p.wants()) for p in others]
        reading = [(partition, last_id, count), *(w for w in wanted if w[2])]
        commands = [("XREAD", "COUNT", n, "STREAMS", p.stream, last) for p, last, n in reading]
        try:
            connection = self._connected()
            connection.send_packed_command(connection.pack_commands(commands))
            found = [self._reader.read(self._receive) for _ in commands]
        except StrangeReplyError:
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
        """Raw replies of pipelined commands. A connection that failed half way is dropped: its replies are out of step."""
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
        self._reader.forget()
        if self._connection is not None:
            self._connection.disconnect()  # it connects again by itself

    def _receive(self, buffer: memoryview) -> int:
        return receive(self._connection, buffer)


def entries_of(reply: Any) -> Entries:
    """Entries of the one stream of an XREAD reply (None when there are none)."""
    if isinstance(reply, Exception):
        raise reply
    return Entries.of(reply[0][1]) if reply else NO_ENTRIES
