"""Send records to Kafka topics with an idempotent producer; failed deliveries are logged and sent again.

A record leaves the producer when the brokers have acknowledged it (`acks=all`), or when they refuse it for good: too
large, or invalid. Retries of the client are exactly once and in order. A record sent again after the client gave it up
(`delivery.timeout.ms`, five minutes) may be in the topic twice, and after later records: readers deduplicate by its id.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog

from feature_repo.kafka.client import client_properties, make_client, mask_values, require_package
from feature_repo.settings import RepoSettings

log = structlog.get_logger(__name__)

Headers = tuple[tuple[str, bytes], ...]
Record = tuple[str, bytes, bytes, Headers]
"""Topic, key, value, headers."""
_REFUSED: Final = frozenset({"MSG_SIZE_TOO_LARGE", "INVALID_RECORD", "_INVALID_ARG"})


class TopicProducer:
    """Sends records; for one thread. `waiting` is the number of records not yet acknowledged.

    `on_failure` is called with the name of librdkafka's error and whether the record is given up, for each failed
    delivery.
    """

    def __init__(
        self, settings: RepoSettings, on_failure: Callable[[str, bool], None] = lambda _name, _lost: None
    ) -> None:
        require_package("confluent_kafka")
        self.waiting = 0
        self._on_failure = on_failure
        self._retry: deque[Record] = deque()
        self._warned: set[str] = set()
        self._fatal = False
        self._properties = client_properties(
            settings, enable_idempotence=True, acks="all", partitioner="murmur2_random", linger_ms=5
        )
        self._producer: Any = None
        self._new_client()

    def send(self, topic: str, key: bytes, value: bytes, headers: Headers = ()) -> None:
        """Queue a record. Records of one key share a partition, the same that Java's clients choose."""
        self.waiting += 1
        self._produce((topic, key, value, headers))

    def poll(self, seconds: float = 0.0) -> None:
        """Handle delivery reports for up to `seconds`, and send again what failed. Call it often."""
        self._producer.poll(seconds)
        if self._fatal:
            self._producer.purge()
            self._producer.poll(0)
            self._new_client()
        for _ in range(len(self._retry)):
            self._produce(self._retry.popleft())

    def flush(self, seconds: float) -> int:
        """Wait up to `seconds` until all records are acknowledged; returns how many are not."""
        until = time.monotonic() + seconds
        while self.waiting and time.monotonic() < until:
            self.poll(0.05)
        return self.waiting

    def _new_client(self) -> None:
        from confluent_kafka import Producer

        self._fatal = False
        self._producer = make_client(Producer, self._properties | {"error_cb": self._on_error})

    def _on_error(self, error: Any) -> None:
        self._warn(error)
        self._fatal = self._fatal or error.fatal()

    def _produce(self, record: Record) -> None:
        from confluent_kafka import KafkaException

        topic, key, value, headers = record
        try:
            self._producer.produce(
                topic, value, key, headers=list(headers), on_delivery=partial(self._delivered, record)
            )
        except BufferError:  # the client's queue is full
            self._retry.append(record)
        except KafkaException as error:
            self._delivered(record, error.args[0], None)

    def _delivered(self, record: Record, error: Any, _message: Any) -> None:
        if error is None:
            self.waiting -= 1
            if self._warned:
                log.info("kafka.delivers_retry", topic=record[0])
                self._warned.clear()
            return
        lost = error.name() in _REFUSED
        self._warn(error, topic=record[0], lost=lost)
        self._on_failure(error.name(), lost)
        self._fatal = self._fatal or error.fatal()
        if lost:
            self.waiting -= 1
        else:
            self._retry.append(record)

    def _warn(self, error: Any, **about: Any) -> None:
        """Log each kind of error once until a record is delivered again; a lost record always."""
        if error.name() not in self._warned or about.get("lost"):
            self._warned.add(error.name())
            told = mask_values(error.str(), self._properties)
            log.warning("kafka.not_delivered", error=told, name=error.name(), **about)
