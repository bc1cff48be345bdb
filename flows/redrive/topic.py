"""Publish events on a Kafka topic, each once: a header names the dead letter, and a file lists the letters being sent.

The file also has the end offsets of the partitions before the batch. A run that finds such a file follows an
interrupted one: it reads the topic from these offsets, records the letters that arrived, and treats the others as not
sent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Final

from feature_repo.errors import FlowError
from feature_repo.files import write_atomically
from feature_repo.kafka.client import client_properties, make_client, require_package
from feature_repo.kafka.producer import TopicProducer
from flows.redrive.already_sent import Sent, SentLetters, batches
from flows.settings import FlowSettings
from flows.streams import EventStream

HEADER: Final = "millstream-letter"
BATCH: Final = 5_000
BATCH_BYTES: Final = 64 << 20
_ANSWER_S: Final = 10.0
_DELIVERED_WITHIN_S: Final = 120.0


class Topic:
    """Publishes events of one stream on its topic. Methods raise `FlowError`; the same file can be sent again."""

    def __init__(self, stream: EventStream, settings: FlowSettings, sent_letters: SentLetters) -> None:
        require_package("confluent_kafka")
        self._sent_letters, self._settings = sent_letters, settings
        self._topic = settings.kafka_topic(stream.name)
        self._note = settings.dead_letters / f"{stream.name}.redriving.json"
        self._refused: list[str] = []
        self._producer: TopicProducer | None = None

    def recover(self) -> None:
        """Record what an interrupted run has sent."""
        if not self._note.exists():
            return
        note = json.loads(self._note.read_text(encoding="utf-8"))
        letters = {*note["letters"]} - self._sent_letters.names
        arrived = self._arrived({int(p): offset for p, offset in note["ends"].items()}) if letters else {}
        self._sent_letters.record({letter: where for letter, where in arrived.items() if letter in letters})
        self._note.unlink()

    def put(self, events: Sequence[Sent]) -> int:
        """Append events; return their number."""
        return sum(self._put(batch) for batch in batches(events, BATCH, BATCH_BYTES))

    def _put(self, batch: Sequence[Sent]) -> int:
        self._producer = self._producer or TopicProducer(self._settings, self._failed)
        self._write_note([letter for letter, *_ in batch])
        for letter, key, payload in batch:
            self._producer.send(self._topic, key.encode(), payload, ((HEADER, letter.encode()),))
            self._producer.poll()
        left = self._producer.flush(_DELIVERED_WITHIN_S)
        if left or self._refused:
            why = f"refused some ({self._refused[0]})" if self._refused else f"have not acknowledged {left:,}"
            raise FlowError(
                f"of {len(batch):,} events the brokers {why}",
                where=f"{self._topic} at {self._settings.kafka_bootstrap_servers}",
                todo="check brokers, topic and permissions, then send the same file again: nothing is sent twice",
            )
        self._sent_letters.record({letter: self._topic for letter, *_ in batch})
        self._note.unlink()
        return len(batch)

    def _failed(self, name: str, lost: bool) -> None:
        if lost:
            self._refused.append(name)

    def _write_note(self, letters: list[str]) -> None:
        ends = {p: high for p, (_, high) in self._bounds(self._consumer()).items()}
        write_atomically(self._note, json.dumps({"ends": ends, "letters": letters}))

    def _arrived(self, ends: dict[int, int]) -> dict[str, str]:
        """Return the letters named by records from these offsets on: name -> position of the record."""
        from confluent_kafka import TopicPartition

        consumer = self._consumer()
        bounds = self._bounds(consumer)
        begin = {p: max(ends.get(p, 0), low) for p, (low, _) in bounds.items()}
        open_ones = {p: high for p, (_, high) in bounds.items() if begin[p] < high}
        consumer.assign([TopicPartition(self._topic, p, begin[p]) for p in open_ones])
        found: dict[str, str] = {}
        give_up = time.monotonic() + _DELIVERED_WITHIN_S
        while open_ones:
            if time.monotonic() > give_up:
                raise self._unreachable("they do not return their records")
            for record in consumer.consume(1_000, 0.5):
                if record.error() is not None:
                    continue
                for name, value in record.headers() or ():
                    if name == HEADER:
                        found[value.decode()] = f"{self._topic} {record.partition()} {record.offset()}"
            for place in consumer.position([TopicPartition(self._topic, p) for p in open_ones]):
                if place.offset >= open_ones[place.partition]:
                    del open_ones[place.partition]
        consumer.close()
        return found

    def _bounds(self, consumer: Any) -> dict[int, tuple[int, int]]:
        """Return partition -> (first offset, end offset)."""
        from confluent_kafka import KafkaException, TopicPartition

        try:
            found = consumer.list_topics(self._topic, timeout=_ANSWER_S).topics[self._topic]
            if found.error is not None or not found.partitions:
                raise self._unreachable("there is no such topic")
            return {
                p: consumer.get_watermark_offsets(TopicPartition(self._topic, p), timeout=_ANSWER_S)
                for p in found.partitions
            }
        except KafkaException as error:
            raise self._unreachable(error.args[0].str()) from None

    def _consumer(self) -> Any:
        from confluent_kafka import Consumer

        return make_client(
            Consumer,
            client_properties(
                self._settings, group_id="millstream", enable_auto_commit=False, auto_offset_reset="error"
            ),
        )

    def _unreachable(self, why: str) -> FlowError:
        return FlowError(
            f"the topic cannot be read: {why}",
            where=f"{self._topic} at {self._settings.kafka_bootstrap_servers}",
            todo="check the brokers and KAFKA_BOOTSTRAP_SERVERS, then send the same file again",
        )
