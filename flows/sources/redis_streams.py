"""The bus: a Bytewax source over Redis Streams.

Unit of parallelism: the stream partition (`bus:payments:0` reads `millstream:payments:0`). Delivery: exactly once into
everything that snapshots with the flow. The resume state is the last entry id. No consumer group is involved, so
nothing is acknowledged to the server, and a replay reads the same entries with the same accept times.

`BusPartition` reads one stream and uses:

    redis_reads      one connection per worker; reads of several partitions in one round trip
    redis_read_size  how many entries to ask for
    redis_counters   entries that vanished before they were read
    redis_retention  removal of entries that are in the log
    redis_blocks     entries to blocks

While the server is unreachable the source waits, with one log line per outage and retries up to 5 s apart.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from threading import get_ident
from typing import Final

import numpy as np
import redis
import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from flows import metrics
from flows.blocks import EPOCH_BYTES, RawBlock
from flows.settings import FlowSettings
from flows.sources.redis_blocks import block_of, offset_of, stream_key
from flows.sources.redis_counters import BusPosition, StreamCounters
from flows.sources.redis_entries import Entries
from flows.sources.redis_read_size import ReadSize
from flows.sources.redis_reads import BusReads
from flows.sources.redis_retention import BusRetention

log = structlog.get_logger(__name__)

_OUTAGE: Final = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError)
_EMPTY = np.empty(0, np.int64)
_CHECKED_ENTRIES: Final = 512
"""Most entries of a read that checks the counters: it goes through the client, at ten times the cost of an entry."""


class RedisStreamSource(FixedPartitionedSource[RawBlock, tuple[str, int] | None]):
    """All partitions of one stream on the bus; `trim` removes entries that are in the log."""

    def __init__(self, parts: list[str], settings: FlowSettings, *, trim: bool = False) -> None:
        self._parts = parts
        self._settings = settings
        self._trim = trim
        self._reads: dict[int, BusReads] = {}

    def list_parts(self) -> list[str]:
        """Return all partitions: every worker reaches the server."""
        return self._parts

    def build_part(self, step_id: str, for_part: str, resume_state: tuple[str, int] | None) -> BusPartition:
        """Begin after the last entry of the durable state, or at the stream's first entry."""
        del step_id
        worker = get_ident()
        if worker not in self._reads:
            self._reads[worker] = BusReads(self._settings)
        return BusPartition(
            for_part,
            resume_state,
            self._settings,
            reads=self._reads[worker],
            trim=self._trim,
            epoch_bytes=EPOCH_BYTES // len(self._parts),
        )


class BusPartition(StatefulSourcePartition[RawBlock, tuple[str, int] | None]):
    """One Redis stream, read forward."""

    def __init__(
        self,
        part: str,
        state: tuple[str, int] | None,
        settings: FlowSettings,
        *,
        reads: BusReads | None = None,
        trim: bool = False,
        epoch_bytes: int = EPOCH_BYTES,
    ) -> None:
        self._part = part
        self.stream = stream_key(part)
        self._reads = reads or BusReads(settings)
        self._reads.join(self)
        self._position = BusPosition(*state) if state is not None else None
        self._began = offset_of(self._position.last_id) if self._position else -1
        self._size = ReadSize(settings, epoch_bytes)
        self._counters = StreamCounters(part, self.stream, settings, self._reads)
        self._retention = BusRetention(part, self.stream, self._reads) if trim else None
        self._outage = _Outage(part)
        self._awake: datetime | None = None
        self._heartbeat_due = True

    def next_batch(self) -> list[RawBlock]:
        """Return at most one block: what has arrived, up to the block size; an empty one once an epoch."""
        now = datetime.now(UTC)
        self._awake = self._reads.next_look(now)
        room = self._size.next_read
        if room <= 0:
            return []  # the epoch is full; snapshot() opens the next one
        try:
            entries, asked = self._read(room, now)
        except _OUTAGE as error:
            self._awake = now + self._outage.failed(error)
            self._counters.check_next(now)
            return []
        self._outage.ended()
        if not entries:
            if not self._heartbeat_due:
                return []
            self._heartbeat_due = False
            return [RawBlock(self._part, self._began, _EMPTY, _EMPTY, [])]
        self._heartbeat_due = False
        self._size.record(entries, asked)
        if len(entries) >= asked:
            self._awake = None  # more is waiting
        self._advance(entries)
        metrics.EVENTS_IN.labels(self._part).inc(len(entries))
        return [block_of(self._part, entries, self._began)]

    def next_awake(self) -> datetime | None:
        """Return a time a few milliseconds from now, or None (at once) if the last block was full."""
        return self._awake

    def snapshot(self) -> tuple[str, int] | None:
        """Return the position after the last block (None before the server first answered) and open the next epoch."""
        self._size.start_epoch()
        self._heartbeat_due = True
        if self._position is None:
            return None
        if self._retention:
            self._retention.end_epoch(self._position.last_id)
        return (self._position.last_id, self._position.read)

    def close(self) -> None:
        """Leave the shared connection."""
        self._reads.leave(self)

    def next_read(self) -> tuple[str, int]:
        """See `flows.sources.redis_reads.Reading`."""
        if self._position is None or self._outage.failures or datetime.now(UTC) >= self._counters.due_at:
            return "", 0
        return self._position.last_id, self._size.next_read

    def _read(self, count: int, now: datetime) -> tuple[Entries, int]:
        """Return entries after the position, and how many were asked for."""
        before = self._position
        if before is not None and (self._reads.ready(self) or now < self._counters.due_at):
            return self._reads.read(self, before.last_id, count), count
        asked = min(count, _CHECKED_ENTRIES)
        self._position, entries = self._counters.read(before, asked, now)
        if before is not None and len(entries) < asked:
            self._counters.write_progress(self._position)
        if self._retention:
            self._retention.remove_durable()
        return entries, asked

    def _advance(self, entries: Entries) -> None:
        position = self._position
        assert position is not None
        last = entries.last_id
        erased = self._counters.erased_between(position.last_id, last)
        self._position = BusPosition(last, position.read + len(entries) + erased)


class _Outage:
    """Failed reads in a row, with one log line when they begin and one when they end."""

    def __init__(self, part: str) -> None:
        self._part = part
        self.failures = 0

    def failed(self, error: Exception) -> timedelta:
        """Count a failed read; returns how long to wait before the next: 0.1 s, doubled with each failure up to 5 s."""
        self.failures += 1
        metrics.BUS_ERRORS.labels(self._part).inc()
        if self.failures == 1:
            log.warning(
                "bus.unreachable",
                partition=self._part,
                error=str(error),
                todo="the flow waits and tries again; check the server and REDIS_URL",
            )
        return timedelta(seconds=min(0.1 * 2.0 ** min(self.failures - 1, 10), 5.0))

    def ended(self) -> None:
        """Forget the failures after a read that was answered."""
        if self.failures:
            log.info("bus.back", partition=self._part, failures=self.failures)
            self.failures = 0
