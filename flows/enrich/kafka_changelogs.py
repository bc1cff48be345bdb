"""Follow the changelogs that a stream joins in Kafka, as `flows.enrich.changelogs` does on the bus.

An event is joined with the rows of the other streams that had been accepted when it was accepted itself. So `read_to`
first asks the brokers for the ends of the topics and reads up to them, which covers every record appended before the
event was read. Records with the same timestamp as the event are complete once the clock has passed it, as far as the
clocks of brokers and flow agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import structlog

from feature_repo.errors import FlowError
from feature_repo.kafka.client import client_properties, make_client, mask_values
from feature_repo.retry import Outage
from flows.accept.admit import admission
from flows.accept.stages import Acceptance
from flows.blocks import RawBlock
from flows.enrich.changelogs import LogFollower
from flows.process.recovery import run_name
from flows.settings import FlowSettings
from flows.sources.kafka import accepted_us
from flows.sources.kafka_topic import TopicPartitions, TopicWatch

log = structlog.get_logger(__name__)

_COUNT: Final = 10_000
_ANSWER_S: Final = 5.0
_OUTAGE: Final = Outage("changelogs", "check the brokers and KAFKA_BOOTSTRAP_SERVERS")
_FUTURE_MS: Final = 1_000
"""The flow does not wait for a timestamp further ahead of the clock than this."""


class TopicFollower:
    """One changelog. `next` is the next offset to read of each known partition."""

    def __init__(self, follower: LogFollower, settings: FlowSettings) -> None:
        self.watch = TopicWatch(settings.kafka_topic(follower.stream.name), settings)
        self.next: dict[int, int] = {}
        self._follower = follower
        self._settings = settings
        self._accept = Acceptance(follower.stream, settings)
        self._names = TopicPartitions(follower.stream.name, self.watch)
        self._admissions: dict[int, Any] = {}
        self.watch.start()

    def begin_new(self) -> bool:
        """Begin to read new partitions: after the last offset in the log, else at the earliest record.

        Returns whether there were any.
        """
        facts = self.watch.facts
        new = [p for p in facts.earliest if p not in self.next] if facts else []
        for p in new:
            assert facts is not None
            name = self._names.name(p)
            last = self._follower.offsets.get(name, -1)
            self.next[p] = max(last + 1, facts.earliest[p])
            state = (self._follower.watermarks[name], last) if last >= 0 else None
            run = run_name(self._settings)
            self._admissions[p] = admission(self._follower.stream, self._settings, run)(state)
        return bool(new)

    def take(self, partition: int, records: Sequence[Any]) -> None:
        """Pass records of one partition through the steps of the changelog's own flow and add the accepted rows."""
        block = RawBlock(
            self._names.name(partition),
            -1,
            np.array([r.offset() for r in records], np.int64),
            accepted_us(records),
            [r.value() or b"" for r in records],
        )
        admitted, _ = self._admissions[partition].on_batch([replace(self._accept(block), dead=())])
        self._follower.take(pa.Table.from_batches([events.rows for events in admitted]).combine_chunks())


class TopicChangelogs:
    """All changelogs of a flow, read together."""

    def __init__(
        self, followers: Sequence[TopicFollower], settings: FlowSettings, newest_ms: Callable[[], int]
    ) -> None:
        """`newest_ms` returns the highest timestamp the flow's source has read; one request covers all up to it."""
        from confluent_kafka import Consumer
        from confluent_kafka.admin import AdminClient

        self._followers = {follower.watch.topic: follower for follower in followers}
        self._newest_ms = newest_ms
        self._read_ms = -1
        self._properties = client_properties(settings)
        self._admin = make_client(AdminClient, self._properties)
        self._consumer = make_client(
            Consumer,
            client_properties(
                settings,
                group_id="millstream",
                enable_auto_commit=False,
                enable_auto_offset_store=False,
                auto_offset_reset="error",
                enable_partition_eof=True,
                check_crcs=True,
                fetch_wait_max_ms=50,
            ),
        )

    def read_to(self, accepted_us: int) -> None:
        """Read every changelog at least up to events accepted by then. Waits while the brokers are unreachable."""
        from confluent_kafka import KafkaException

        wanted = accepted_us // 1000
        while wanted > self._read_ms:
            newest = max(wanted, self._newest_ms())
            ahead = newest - time.time_ns() // 1_000_000
            if 0 <= ahead <= _FUTURE_MS:
                time.sleep((ahead + 1) / 1000)
            if _OUTAGE.wait_out(self._read_all, KafkaException, describe=self._describe):
                self._read_ms = newest
                return
            time.sleep(0.02)  # the brokers have not listed their topics yet

    def _describe(self, error: Exception) -> str:
        return mask_values(error.args[0].str(), self._properties)

    def _read_all(self) -> bool:
        """Read to the present ends of the topics; returns False if their partitions are not known yet."""
        if any(f.watch.facts is None and not f.watch.missing for f in self._followers.values()):
            return False
        if sum(f.begin_new() for f in self._followers.values()):
            self._assign()
        ends = self._ends()
        while any(self._followers[topic].next[p] < end for (topic, p), end in ends.items()):
            self._take(self._consumer.consume(_COUNT, 0.05))
        return True

    def _take(self, records: Sequence[Any]) -> None:
        from confluent_kafka import KafkaError, KafkaException

        arrived: dict[tuple[str, int], list[Any]] = {}
        for record in records:
            place = (record.topic(), record.partition())
            if record.error() is None and record.offset() >= self._followers[place[0]].next[place[1]]:
                arrived.setdefault(place, []).append(record)
        for (topic, partition), some in arrived.items():
            self._followers[topic].take(partition, some)
            self._followers[topic].next[partition] = some[-1].offset() + 1
        for record in (r for r in records if r.error() is not None):
            topic, partition, code = record.topic(), record.partition(), record.error().code()
            if (
                code == KafkaError._PARTITION_EOF
            ):  # behind the mark that ends a transaction there is no record
                following = self._followers[topic].next
                following[partition] = max(following[partition], record.offset())
            elif code == KafkaError._AUTO_OFFSET_RESET:
                self._pass_over(topic, partition)
            else:
                self._assign()
                raise KafkaException(record.error())

    def _pass_over(self, topic: str, partition: int) -> None:
        """Continue at the earliest record; the changelog's own flow stops for records that vanished unread.

        Raises `FlowError`.
        """
        from confluent_kafka import TopicPartition

        low, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_ANSWER_S)
        following = self._followers[topic].next
        if following[partition] > high:
            raise FlowError(
                f"records that were read are no longer in the topic: it ends before offset {high}",
                where=f"{topic}, partition {partition}",
                todo="see the log of the flow of this changelog",
            )
        log.warning("changelogs.gap", topic=topic, partition=partition, unread=low - following[partition])
        following[partition] = max(following[partition], low)
        self._assign()

    def _ends(self) -> dict[tuple[str, int], int]:
        from confluent_kafka import IsolationLevel, TopicPartition
        from confluent_kafka.admin import OffsetSpec

        places = [TopicPartition(t, p) for t, f in self._followers.items() for p in f.next]
        if not places:
            return {}
        offsets = self._admin.list_offsets(
            dict.fromkeys(places, OffsetSpec.latest()),
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=_ANSWER_S,
        )
        return {(tp.topic, tp.partition): int(of.result().offset) for tp, of in offsets.items()}

    def _assign(self) -> None:
        from confluent_kafka import TopicPartition

        self._consumer.assign(
            [TopicPartition(t, p, after) for t, f in self._followers.items() for p, after in f.next.items()]
        )
