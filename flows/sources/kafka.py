"""Kafka: a Bytewax source over the partitions of a topic.

Unit of parallelism: a slot. Slot k reads the partitions p with p % SLOTS == k, including partitions added while the
flow runs (Bytewax lists its parts only at the start). Partition 3 of the payments is `kafka:payments:3` in the log,
whatever the topic is called. Delivery: exactly once into everything that snapshots with the flow. The resume state is
the next offset of each partition; no consumer group takes part, nothing is committed to the brokers, and a replay reads
the very same records. The accept time of an event is the record's timestamp as the topic keeps it.

Nothing is lost silently: an offset the brokers no longer have (`auto.offset.reset=error`) stops the flow, and so does a
topic that was created again or lost records the flow has read. While the brokers are away the source waits, and the
client reconnects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict

import numpy as np
import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from feature_repo.errors import FlowError
from feature_repo.kafka.client import client_properties, make_client, require_package
from flows import metrics
from flows.blocks import BLOCK_BYTES, EPOCH_BYTES, Int64s, RawBlock
from flows.settings import FlowSettings
from flows.sources.kafka_topic import TopicFacts, TopicPartitions, TopicWatch
from flows.streams import EventStream

log = structlog.get_logger(__name__)

SLOTS: Final = 8
"""Must not change for a home that has been written: a slot's state would name partitions of another slot."""
_EMPTY = np.empty(0, np.int64)
_IDLE: Final = timedelta(milliseconds=200)
"""How often a slot without partitions checks for new ones."""
_LATEST_MS: Final = 9_214_646_400_000
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class SlotState(TypedDict):
    """Resume state of a slot: the topic's id, and by partition (next offset, last record's leader epoch or -1)."""

    topic_id: str
    next: dict[int, tuple[int, int]]


class KafkaSource(FixedPartitionedSource[RawBlock, SlotState | None]):
    """All partitions of one stream's topic. `partitions` are the names known so far."""

    def __init__(self, stream: EventStream, settings: FlowSettings) -> None:
        require_package("confluent_kafka")
        self._stream = stream
        self._settings = settings
        self.watch = TopicWatch(settings.kafka_topic(stream.name), settings)
        self.partitions = TopicPartitions(stream.name, self.watch)
        self.newest_ms = -1

    def newest(self) -> int:
        """Return the highest timestamp any worker of this process has read, in milliseconds; -1 before the first."""
        return self.newest_ms

    def list_parts(self) -> list[str]:
        """Return all slots: every worker reaches the brokers."""
        return [f"kafka:{self._stream.name}:slot-{slot}" for slot in range(SLOTS)]

    def build_part(self, step_id: str, for_part: str, resume_state: SlotState | None) -> KafkaSlot:
        """Begin at the next offset of the durable state; partitions without one begin at the earliest offset."""
        del step_id
        slot = int(for_part.rpartition("-")[2])
        return KafkaSlot(slot, resume_state, self, self._settings)


class KafkaSlot(StatefulSourcePartition[RawBlock, SlotState | None]):
    """Some partitions of one topic, read forward."""

    def __init__(
        self,
        slot: int,
        state: SlotState | None,
        source: KafkaSource,
        settings: FlowSettings,
    ) -> None:
        self._slot = slot
        self._resumed = state
        self._source = source
        self._watch = source.watch
        self._names = source.partitions
        self._settings = settings
        self._consumer: Any = None
        self._next: dict[int, tuple[int, int]] = {}
        self._began: dict[int, int] = {}
        self._heartbeat_due: set[int] = set()
        self._in_epoch = self._bytes_in_epoch = 0
        self._awake: datetime | None = None
        self._warned: set[str] = set()
        self._watch.start()

    def next_batch(self) -> list[RawBlock]:
        """Return at most one block per partition: what has arrived, up to a block; once an epoch an empty one."""
        now = datetime.now(UTC)
        self._awake = now + timedelta(milliseconds=self._settings.linger_ms)
        room = min(self._settings.block_events, self._settings.epoch_events - self._in_epoch)
        if room <= 0 or self._bytes_in_epoch >= EPOCH_BYTES // SLOTS:
            return []  # the epoch is full; snapshot() opens the next one
        facts = self._watch.facts
        if facts is not None:
            self._take_new(facts)
        if not self._next:
            self._awake = now + _IDLE
            return []
        records = self._consumer.consume(room, 0)
        if len(records) >= room:
            self._awake = None  # more is waiting
        self._in_epoch += len(records)
        arrived: dict[int, list[Any]] = {}
        for record in records:
            partition = record.partition()
            # Records in flight when the partitions were assigned again may arrive twice.
            if record.error() is None and record.offset() >= self._next[partition][0]:
                arrived.setdefault(partition, []).append(record)
        blocks = [self._block(partition, some) for partition, some in arrived.items()]
        for record in records:
            if record.error() is not None:
                self._handle_error(record)  # after the blocks: it may assign the partitions anew
        quiet = sorted(self._heartbeat_due - arrived.keys())
        self._heartbeat_due.clear()
        return blocks + [self._raw(partition, _EMPTY, _EMPTY, []) for partition in quiet]

    def next_awake(self) -> datetime | None:
        """Return a time a few milliseconds from now, or None (at once) if the last block was full."""
        return self._awake

    def snapshot(self) -> SlotState | None:
        """Return the positions after the last blocks and open the next epoch."""
        self._in_epoch = self._bytes_in_epoch = 0
        self._heartbeat_due = set(self._next)
        facts = self._watch.facts
        if facts is None or not self._next:
            return self._resumed
        self._count_lag()
        return {"topic_id": facts.topic_id, "next": dict(self._next)}

    def close(self) -> None:
        """Close the connections to the brokers."""
        self._watch.stop()
        if self._consumer is not None:
            self._consumer.close()

    def _take_new(self, facts: TopicFacts) -> None:
        """Begin to read partitions of this slot that were added. Raises `FlowError` for another topic."""
        self._require_same_topic(facts)
        new = [p for p in sorted(facts.earliest) if p % SLOTS == self._slot and p not in self._next]
        if not new:
            return
        known = self._resumed["next"] if self._resumed else {}
        for p in new:
            self._next[p] = known.get(p, (facts.earliest[p], -1))
            if p not in known and facts.earliest[p]:
                log.warning(
                    "kafka.begins_late", partition=self._names.name(p), first_offset=facts.earliest[p]
                )
            self._began[p] = self._next[p][0] - 1
        self._heartbeat_due.update(new)
        if self._consumer is None:
            self._consumer = self._connect()
        self._assign()

    def _require_same_topic(self, facts: TopicFacts) -> None:
        state = self._resumed
        if self._watch.replaced or (state is not None and state["topic_id"] != facts.topic_id):
            raise FlowError(
                "the topic is not the one this home has read: it was deleted and made again, or the settings name another",
                where=self._watch.topic,
                todo=(
                    "offsets of the log mean nothing in it; read it into a new MILLSTREAM_HOME, or name the topic of this home "
                    "(KAFKA_BOOTSTRAP_SERVERS, MILLSTREAM_KAFKA_TOPICS)"
                ),
            )

    def _connect(self) -> Any:
        from confluent_kafka import Consumer

        properties = client_properties(
            self._settings,
            group_id="millstream",  # the client requires a name; no group is joined, nothing is committed
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            auto_offset_reset="error",
            check_crcs=True,
            fetch_queue_backoff_ms=10,
            queued_max_messages_kbytes=max(
                BLOCK_BYTES // 1024, 1
            ),  # what waits in the client; a block is not larger
        )
        return make_client(Consumer, properties | {"error_cb": self._count_error})

    def _assign(self) -> None:
        from confluent_kafka import TopicPartition

        topic = self._watch.topic
        places = [
            TopicPartition(topic, p, offset, **({"leader_epoch": epoch} if epoch >= 0 else {}))
            for p, (offset, epoch) in self._next.items()
        ]
        self._consumer.assign(places)

    def _block(self, partition: int, records: Sequence[Any]) -> RawBlock:
        offsets = np.fromiter((r.offset() for r in records), np.int64, len(records))
        stamps_us = accepted_us(records)
        payloads = [r.value() or b"" for r in records]
        self._bytes_in_epoch += sum(map(len, payloads))
        epoch = records[-1].leader_epoch()
        self._next[partition] = (int(offsets[-1]) + 1, -1 if epoch is None else int(epoch))
        metrics.EVENTS_IN.labels(self._names.name(partition)).inc(len(records))
        self._source.newest_ms = max(self._source.newest_ms, int(stamps_us.max()) // 1000)
        return self._raw(partition, offsets, stamps_us, payloads, _traces(records))

    def _raw(
        self,
        partition: int,
        offsets: Any,
        accepted_us: Any,
        payloads: list[bytes],
        traces: Mapping[int, str] | None = None,
    ) -> RawBlock:
        return RawBlock(
            self._names.name(partition),
            self._began[partition],
            offsets,
            accepted_us,
            payloads,
            traces=traces or {},
        )

    def _handle_error(self, record: Any) -> None:
        """Handle an error that came in place of a record: wait if it may pass, else raise `FlowError`."""
        from confluent_kafka import KafkaError

        error = record.error()
        partition = record.partition()
        if (
            error.code() in {KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION}
            and partition in self._next
        ):
            self._gap(partition)
        elif error.code() in {KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION} or error.fatal():
            raise FlowError(
                f"a record cannot be read: {error.str()}",
                where=f"{self._names.name(partition)}, offset {record.offset()}",
                todo="see the brokers' logs; the flow continues at this record when it is started again",
            )
        else:
            self._count_error(error)
            if error.name() not in self._warned:
                self._warned.add(error.name())
                log.warning("kafka.error", partition=self._names.name(partition), error=error.str())

    def _gap(self, partition: int) -> None:
        """Handle a next offset that the brokers do not have: a gap if it is before their earliest, else another log."""
        from confluent_kafka import KafkaException, TopicPartition

        wanted = self._next[partition][0]
        try:
            low, high = self._consumer.get_watermark_offsets(
                TopicPartition(self._watch.topic, partition), timeout=5.0
            )
        except KafkaException as error:
            log.warning("kafka.error", partition=self._names.name(partition), error=error.args[0].str())
            self._assign()  # the client asks for the offset again, and the error comes again
            return
        if wanted >= low:
            raise FlowError(
                f"records that were read are no longer in the topic: it ends before offset {high}, the flow has read up to {wanted - 1}",
                where=self._names.name(partition),
                todo="the brokers lost records (an unclean election, an old backup); bring them back, or read the topic into a new "
                "MILLSTREAM_HOME",
            )
        what = (
            f"{low - wanted} offsets from {wanted} on are no longer in the topic, the flow has not read them"
        )
        if self._settings.bus_gap == "stop":
            raise FlowError(
                what,
                where=self._names.name(partition),
                todo=(
                    "publish them again from their producer if you can; to go on without them, start once with "
                    "MILLSTREAM_BUS_GAP=accept, and let the topic keep records (retention.ms) longer than the flow is ever down"
                ),
            )
        log.warning("kafka.gap_accepted", partition=self._names.name(partition), what=what)
        metrics.EVENTS_LOST.labels(self._names.name(partition)).inc(low - wanted)
        self._next[partition] = (low, -1)
        self._assign()

    def _count_error(self, error: Any) -> None:
        del error
        metrics.BUS_ERRORS.labels(f"{self._names.name(0).rpartition(':')[0]}:slot-{self._slot}").inc()

    def _count_lag(self) -> None:
        from confluent_kafka import TopicPartition

        for partition, (after, _) in self._next.items():
            place = TopicPartition(self._watch.topic, partition)
            known = self._consumer.get_watermark_offsets(place, cached=True)
            if known and known[1] >= 0:
                metrics.SOURCE_LAG.labels(self._names.name(partition)).set(max(known[1] - after, 0))


def accepted_us(records: Sequence[Any]) -> Int64s:
    """Return the timestamps of records in microseconds, int64[n].

    Values out of range are clipped; their events become dead letters.
    """
    stamps = np.fromiter((r.timestamp()[1] for r in records), np.int64, len(records))
    return np.clip(stamps, -1, _LATEST_MS) * 1000


def _traces(records: Sequence[Any]) -> dict[int, str]:
    """Return the well-formed W3C trace contexts by offset; other headers are not read."""
    found = {}
    for record in records:
        for name, value in record.headers() or ():
            if name == "traceparent" and value is not None and _TRACEPARENT.fullmatch(value):
                found[record.offset()] = value.decode()
    return found
