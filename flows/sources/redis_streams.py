"""The bus: a Bytewax source over Redis Streams.

Unit of parallelism: the stream partition (`bus:payments:0` reads `millstream:payments:0`). Delivery: exactly once into
everything that snapshots with the flow; the resume state is the last entry id, no consumer group is involved, so nothing
is acknowledged to the server and a replay reads the very same entries with the very same accept times.

Nothing is lost silently. The state also counts the entries read since the stream began; the server's own counters
(XINFO STREAM: entries-added, length) then tell, atomically with a read, whether entries vanished that we never saw:
trimmed because the flow was down too long, deleted, or gone with the whole server. The flow stops and says so.

One case explains itself: a server that went back in time (restarted from an older file after a power cut, failed over to an older copy)
counts fewer entries than we have read. It is told from a stream that was emptied or replaced by what we leave on the server once a
second, how many entries we have read (in the hash `millstream:read:<stream>`): that went back together with the stream. What is gone
then was read, and is in the log: the flow goes on, with a warning. Of entries that the server acknowledged and lost before anybody read
them no trace is left; a producer that cannot send again needs `appendfsync always`.

With `trim`, entries leave the bus once they need not be read again: the bus holds events as they came, personal columns and
all. An epoch's entries are removed when two later epochs have begun, so that their own is durable and published, and not
before a minute after the bus accepted them, so that others see them (`/readyz` of the scorer, flows that join this stream). The
counters make no gap of that: what is gone was read before.

An event may have any size the server takes. So blocks and epochs end at a number of bytes, too: what an entry of the last full block
weighed says how many are asked for next, and after a start it begins with few.

While the server is unreachable the source waits, with one log line per change and retries up to 5 s apart.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections import deque
from datetime import UTC, datetime, timedelta
from threading import get_ident
from typing import Any, Final, NamedTuple

import numpy as np
import redis
import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from feature_repo.errors import FlowError
from feature_repo.privacy import Pseudonyms
from flows import metrics
from flows.blocks import BLOCK_BYTES, EPOCH_BYTES, RawBlock
from flows.privacy.tombstones import removed_from_bus
from flows.settings import FlowSettings
from flows.sources.redis_entries import Entries
from flows.sources.redis_reads import BusReads, entries_of

log = structlog.get_logger(__name__)

SEQUENCE_BITS = 20
_CHECK_EVERY = timedelta(seconds=1)
TRIM_AFTER_EPOCHS: Final = 2
TRIM_AFTER_S: Final = 60
_OUTAGE = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError)
_EMPTY = np.empty(0, np.int64)
_CHECKED_ENTRIES = 512
"""A checked read goes through the client, at ten times the cost of an entry: it takes few."""
_FIRST_ENTRIES = 128


class BusPosition(NamedTuple):
    """Resume state of a partition: the last entry read, and how many were read or skipped before it, it included."""

    last_id: str
    read: int


class RedisStreamSource(FixedPartitionedSource[RawBlock, tuple[str, int] | None]):
    """All partitions of one kind of event on the bus."""

    def __init__(
        self,
        parts: list[str],
        settings: FlowSettings,
        *,
        trim: bool = False,
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._trim = trim
        self._reads: dict[int, BusReads] = {}

    def list_parts(self) -> list[str]:
        """Every worker reaches the server, so every worker has access to all partitions."""
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
        self._epoch_bytes = epoch_bytes
        self._bytes_in_epoch = 0
        self._most = _FIRST_ENTRIES
        self.stream = part.replace("bus:", "millstream:", 1)
        self._read_key = f"millstream:read:{part.split(':')[1]}"
        self._noted = -1
        self._settings = settings
        self._reads = reads or BusReads(settings)
        self._reads.join(self)
        self._position = BusPosition(*state) if state is not None else None
        self._began = offset_of(self._position.last_id) if self._position else -1
        self._awake: datetime | None = None
        self._next_check = datetime.min.replace(tzinfo=UTC)
        self._in_epoch = 0
        self._asked = 0
        self._heartbeat_due = True
        self._failures = 0
        self._erased = removed_from_bus(settings.home).get(part, [])
        """Offsets of entries an erasure has removed (`flows.erase`), read or not: of the latter the server counts more than we see."""
        self._trim = trim
        self._passed: deque[str] = deque(maxlen=TRIM_AFTER_EPOCHS + 1)
        self._trimmed = "0-0"

    def next_batch(self) -> list[RawBlock]:
        """At most one block: what has arrived, up to the block size; an empty one once an epoch."""
        now = datetime.now(UTC)
        room = self._room
        self._awake = self._reads.next_look(now)
        if room <= 0:
            return []  # the epoch is full; snapshot() opens the next one
        try:
            entries = self._read(room, now)
        except _OUTAGE as error:
            self._back_off(error, now)
            return []
        if self._failures:
            log.info("bus.back", partition=self._part, failures=self._failures)
            self._failures = 0
        if not entries:
            if not self._heartbeat_due:
                return []
            self._heartbeat_due = False
            return [RawBlock(self._part, self._began, _EMPTY, _EMPTY, [])]
        self._heartbeat_due = False
        self._in_epoch += len(entries)
        self._weigh(entries)
        if len(entries) >= self._asked:
            self._awake = None  # more is waiting
        block = self._block(entries)
        metrics.EVENTS_IN.labels(self._part).inc(len(entries))
        return [block]

    def next_awake(self) -> datetime | None:
        """A few milliseconds from now, or at once if the last block was full."""
        return self._awake

    def snapshot(self) -> tuple[str, int] | None:
        """The position after the last block emitted (None before the server first answered); opens the next epoch."""
        self._in_epoch = self._bytes_in_epoch = 0
        self._heartbeat_due = True
        if self._trim and self._position:
            self._passed.append(self._position.last_id)
        return (self._position.last_id, self._position.read) if self._position else None

    def close(self) -> None:
        """Give the connection back."""
        self._reads.leave(self)

    def wants(self) -> tuple[str, int]:
        """See `flows.sources.redis_reads`."""
        if self._position is None or self._failures or datetime.now(UTC) >= self._next_check:
            return "", 0
        return self._position.last_id, self._room

    def _read(self, count: int, now: datetime) -> Entries:
        """Entries after the position."""
        self._asked = count
        position = self._position
        if position is not None and (self._reads.ready(self) or now < self._next_check):
            return self._reads.read(self, position.last_id, count)
        self._asked = min(count, _CHECKED_ENTRIES)
        return self._read_checked(self._asked, now)

    @property
    def _room(self) -> int:
        if self._bytes_in_epoch >= self._epoch_bytes:
            return 0
        return min(self._settings.block_events, self._settings.epoch_events - self._in_epoch, self._most)

    def _weigh(self, entries: Entries) -> None:
        """How many entries to ask for next, so that they weigh about a block."""
        held = int((entries.payloads.ends - entries.payloads.starts).sum())
        self._bytes_in_epoch += held
        fitting = max(BLOCK_BYTES * len(entries) // max(held, 1), 1)
        if len(entries) >= self._asked:
            self._most = min(2 * max(self._most, self._asked), fitting)
        else:
            self._most = min(self._most, fitting)

    def _read_checked(self, count: int, now: datetime) -> Entries:
        """Read, and hold the server's counters of the same instant against ours."""
        last_id = self._position.last_id if self._position else "0-0"
        *_, (noted, exists, info, reply) = self._reads.call(
            ("MULTI",),
            ("HGET", self._read_key, self._part),
            ("EXISTS", self.stream),
            ("XINFO", "STREAM", self.stream),
            ("XREAD", "COUNT", count, "STREAMS", self.stream, last_id),
            ("EXEC",),
        )
        entries = entries_of(reply)
        added, length = 0, 0
        if exists:
            facts = dict(zip(info[::2], info[1::2], strict=True))
            added, length = int(facts[b"entries-added"]), int(facts[b"length"])
        if self._position is None:
            self._begin(skipped=added - length - self._erased_after("0-0"))
        else:
            erased = self._erased_after(self._position.last_id)
            # How many entries came before the next one: known exactly once this read reached the end of the stream.
            at_end = len(entries) < count
            before = (
                added - len(entries) - erased if at_end else max(added - length - erased, self._position.read)
            )
            if before < self._position.read and noted is not None and int(noted) <= before:
                self._went_back(before)
            elif before != self._position.read:
                self._gap(before, added)
            if at_end and self._position.read != self._noted:
                with contextlib.suppress(redis.ResponseError):  # no memory left: the next second
                    self._reads.call(("HSET", self._read_key, self._part, self._position.read))
                    self._noted = self._position.read
        self._next_check = now + _CHECK_EVERY
        if len(self._passed) > TRIM_AFTER_EPOCHS and self._passed[0] != self._trimmed:
            self._remove_read(self._passed[0])
        return entries

    def _erased_after(self, entry: str) -> int:
        return len(self._erased) - bisect_right(self._erased, offset_of(entry))

    def _remove_read(self, durable: str) -> None:
        """Remove entries up to a durable one, as far as they are old enough by the server's clock."""
        try:
            ((seconds, _),) = self._reads.call(("TIME",))
            old = (int(seconds) - TRIM_AFTER_S) * 1000
            milliseconds, _, sequence = durable.partition("-")
            upto = (int(milliseconds), int(sequence) + 1)  # MINID names the first entry that stays
            first = min(upto, (old, 0))
            self._reads.call(("XTRIM", self.stream, "MINID", "=", f"{first[0]}-{first[1]}"))
        except redis.ResponseError as error:
            self._trim = False
            self._passed.clear()
            log.warning(
                "bus.not_trimmed",
                partition=self._part,
                error=str(error),
                todo="events stay on the bus as they came: let this user XTRIM, or set MILLSTREAM_BUS_RETENTION=all",
            )
            return
        if first == upto:
            self._trimmed = durable

    def _begin(self, skipped: int) -> None:
        if skipped:
            log.warning("bus.begins_late", partition=self._part, entries_trimmed_before_first_start=skipped)
        self._position = BusPosition("0-0", skipped)

    def _went_back(self, before: int) -> None:
        position = self._position
        assert position is not None
        log.warning(
            "bus.rolled_back",
            partition=self._part,
            entries=position.read - before,
            what="the server lost entries it had acknowledged (restarted from an older file, or failed over?)",
            then="those entries were read before; the flow goes on",
            todo="entries nobody had read yet are gone without a trace: let producers send the last seconds again",
        )
        metrics.BUS_ROLLED_BACK.labels(self._part).inc(position.read - before)
        self._position = position._replace(read=before)

    def _gap(self, before: int, added: int) -> None:
        position = self._position
        assert position is not None
        missing = before - position.read
        what = (
            f"{missing} entries vanished before the flow read them"
            if missing > 0
            else f"the stream was emptied or replaced: it counts {added} entries, the flow has read {position.read}"
        )
        if self._settings.bus_gap == "stop":
            raise FlowError(
                what,
                where=f"{self.stream}, after entry {position.last_id}",
                todo=(
                    "publish them again from their producer if you can; to go on without them, start once with "
                    "MILLSTREAM_BUS_GAP=accept, and give the bus more room (MAXLEN) than the flow is ever down"
                ),
            )
        log.warning("bus.gap_accepted", partition=self._part, what=what)
        metrics.EVENTS_LOST.labels(self._part).inc(max(missing, 0))
        self._position = position._replace(read=before)

    def _block(self, entries: Entries) -> RawBlock:
        position = self._position
        assert position is not None
        last = entries.last_id
        erased = self._erased_after(position.last_id) - self._erased_after(last)
        self._position = BusPosition(last, position.read + len(entries) + erased)
        return block_of(self._part, entries, self._began)

    def _back_off(self, error: Exception, now: datetime) -> None:
        self._failures += 1
        wait = min(0.1 * 2.0 ** min(self._failures - 1, 10), 5.0)
        self._awake = now + timedelta(seconds=wait)
        self._noted = -1
        self._next_check = now  # another server, or an older one, may answer next time
        metrics.BUS_ERRORS.labels(self._part).inc()
        if self._failures == 1:
            log.warning(
                "bus.unreachable",
                partition=self._part,
                error=str(error),
                todo="the flow waits and tries again; check the server and REDIS_URL",
            )


def raw_block(part: str, entries: list[Any], began: int = -1) -> RawBlock:
    """Entries of the bus, as raw replies `[id, [field, value, ...]]`, as a block of one partition."""
    return block_of(part, Entries.of(entries), began)


def block_of(part: str, entries: Entries, began: int) -> RawBlock:
    """Entries of the bus as a block of one partition."""
    milliseconds, sequence = entries.milliseconds, entries.sequence
    if int(sequence.max()) >> SEQUENCE_BITS:
        at = int(sequence.argmax())
        raise FlowError(
            f"entry id {milliseconds[at]}-{sequence[at]} has a sequence number of more than {SEQUENCE_BITS} bits",
            where=part,
            todo="let the server give the ids (XADD with *)",
        )
    return RawBlock(
        partition=part,
        began=began,
        offsets=(milliseconds << SEQUENCE_BITS) | sequence,
        accepted_us=milliseconds * 1000,
        payloads=entries.payloads,
    )


def trims_bus(pseudonyms: Pseudonyms, settings: FlowSettings) -> bool:
    """Whether a flow removes what it has read (`MILLSTREAM_BUS_RETENTION`); a malformed event of any stream may hold a name."""
    if settings.bus_retention == "auto":
        return pseudonyms.keyed
    return settings.bus_retention == "unread"


def offset_of(entry: str) -> int:
    """The offset of an entry id; -1 for `0-0`, which stands before the first."""
    milliseconds, _, sequence = entry.partition("-")
    return -1 if entry == "0-0" else (int(milliseconds) << SEQUENCE_BITS) | int(sequence)
