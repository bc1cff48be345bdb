"""Detect entries that vanished from a Redis stream before the flow read them.

The flow counts the entries it has read since the stream began. The server counts the entries ever added and those still
there (XINFO STREAM: entries-added, length). Read in one transaction with the entries, these numbers show whether
entries were trimmed, deleted or lost with the server before the flow read them. The flow then stops, or goes on if the
operator accepts the loss.

A server that went back to an older copy of its data (restarted from an older file after a power cut, failed over to an
older replica) also counts fewer entries than the flow has read. To tell this from a stream that was emptied or
replaced, the flow writes how many entries it has read to the server once a second (hash `millstream:read:<stream>`):
this number goes back together with the stream. Entries lost so were read and are in the log; the flow warns and goes
on. Entries that the server acknowledged and lost before anybody read them leave no trace: a producer that cannot send
again needs `appendfsync always`.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import redis
import structlog

from feature_repo.errors import FlowError
from flows import metrics
from flows.privacy.tombstones import removed_from_bus
from flows.settings import FlowSettings
from flows.sources.redis_blocks import offset_of
from flows.sources.redis_entries import Entries
from flows.sources.redis_reads import BusReads, entries_of

log = structlog.get_logger(__name__)

_CHECK_EVERY: Final = timedelta(seconds=1)


class BusPosition(NamedTuple):
    """Resume state of a partition: id of the last entry read, and how many entries were read or skipped up to it."""

    last_id: str
    read: int


class StreamCounters:
    """Reads of one stream that compare the server's counters with ours; `due_at` is the time of the next one."""

    def __init__(self, part: str, stream: str, settings: FlowSettings, reads: BusReads) -> None:
        self._part, self._stream = part, stream
        self._accept_gaps = settings.bus_gap == "accept"
        self._reads = reads
        self._progress_key = f"millstream:read:{part.split(':')[1]}"
        self._progress = -1
        self._erased = removed_from_bus(settings.home).get(part, [])
        """Offsets of entries that erasures removed, ascending, read or not: the server counts them as added."""
        self.due_at = datetime.min.replace(tzinfo=UTC)

    def read(self, position: BusPosition | None, count: int, now: datetime) -> tuple[BusPosition, Entries]:
        """Read up to `count` entries after a position (None: from the first entry) and check the counters with them.

        Returns the position before these entries, its count corrected by a loss that is accepted. Raises `FlowError`
        for entries that vanished, and redis-py's errors.
        """
        last_id = position.last_id if position else "0-0"
        *_, (progress, exists, info, reply) = self._reads.call(
            ("MULTI",),
            ("HGET", self._progress_key, self._part),
            ("EXISTS", self._stream),
            ("XINFO", "STREAM", self._stream),
            ("XREAD", "COUNT", count, "STREAMS", self._stream, last_id),
            ("EXEC",),
        )
        entries = entries_of(reply)
        added, length = 0, 0
        if exists:
            facts = dict(zip(info[::2], info[1::2], strict=True))
            added, length = int(facts[b"entries-added"]), int(facts[b"length"])
        self.due_at = now + _CHECK_EVERY
        if position is None:
            return self._first_position(added - length - self._erased_after("0-0")), entries
        erased = self._erased_after(position.last_id)
        # How many entries came before the next one: known exactly once this read reached the end of the stream.
        if len(entries) < count:
            before = added - len(entries) - erased
        else:
            before = max(added - length - erased, position.read)
        if before < position.read and progress is not None and int(progress) <= before:
            return self._rolled_back(position, before), entries
        return (self._lost(position, before, added) if before != position.read else position), entries

    def write_progress(self, position: BusPosition) -> None:
        """Write to the server how many entries were read, unless it has this number."""
        if position.read != self._progress:
            with contextlib.suppress(redis.ResponseError):  # no memory left: try again at the next check
                self._reads.call(("HSET", self._progress_key, self._part, position.read))
                self._progress = position.read

    def check_next(self, now: datetime) -> None:
        """Check at the next read: another server, or an older copy, may answer it."""
        self._progress = -1
        self.due_at = now

    def erased_between(self, after: str, last: str) -> int:
        """How many entries erasures removed after one entry id, up to and including another."""
        return self._erased_after(after) - self._erased_after(last)

    def _erased_after(self, entry: str) -> int:
        return len(self._erased) - bisect_right(self._erased, offset_of(entry))

    def _first_position(self, skipped: int) -> BusPosition:
        if skipped:
            log.warning("bus.begins_late", partition=self._part, entries_trimmed_before_first_start=skipped)
        return BusPosition("0-0", skipped)

    def _rolled_back(self, position: BusPosition, before: int) -> BusPosition:
        log.warning(
            "bus.rolled_back",
            partition=self._part,
            entries=position.read - before,
            what="the server lost entries it had acknowledged (restarted from an older file, or failed over?)",
            then="the flow had read these entries and goes on",
            todo="entries that were not read yet are lost without a trace: let producers send the last seconds again",
        )
        metrics.BUS_ROLLED_BACK.labels(self._part).inc(position.read - before)
        return position._replace(read=before)

    def _lost(self, position: BusPosition, before: int, added: int) -> BusPosition:
        missing = before - position.read
        what = (
            f"{missing} entries vanished before the flow read them"
            if missing > 0
            else f"the stream was emptied or replaced: it counts {added} entries, the flow has read {position.read}"
        )
        if not self._accept_gaps:
            raise FlowError(
                what,
                where=f"{self._stream}, after entry {position.last_id}",
                todo=(
                    "publish them again from their producer if you can; to go on without them, start once with "
                    "MILLSTREAM_BUS_GAP=accept, and give the bus more room (MAXLEN) than the flow is ever down"
                ),
            )
        log.warning("bus.gap_accepted", partition=self._part, what=what)
        metrics.EVENTS_LOST.labels(self._part).inc(max(missing, 0))
        return position._replace(read=before)
