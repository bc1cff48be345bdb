"""The partitions of a topic, refreshed by a thread, so that no flow waits for an unreachable broker.

Partitions that are added while a flow runs are found within a second or two. A topic that was deleted and created again
has another id; its offsets are unrelated to those of the old topic.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any, Final

import structlog

from feature_repo.kafka.client import client_properties, make_client, mask_values
from flows.settings import FlowSettings

log = structlog.get_logger(__name__)

REFRESH_EVERY_S: Final = 1.0
_RETRY_AFTER_S: Final = 0.25
"""After a failure."""
_ANSWER_S: Final = 5.0


@dataclass(frozen=True)
class TopicFacts:
    """A topic's id, and the earliest offset of each partition when it was first seen."""

    topic_id: str
    earliest: Mapping[int, int]


class TopicWatch:
    """Refreshes `facts` about one topic from `start` to `stop`; None until the brokers first answered."""

    def __init__(self, topic: str, settings: FlowSettings) -> None:
        self.topic = topic
        self.facts: TopicFacts | None = None
        self.replaced = False
        """Whether the topic was deleted and created again since the start."""
        self.missing = False
        """Whether the brokers' last answer was that there is no such topic."""
        self._settings = settings
        self._users = 0
        self._lock = Lock()
        self._stopped = Event()
        self._failing_since: float | None = None

    def start(self) -> None:
        """Start the thread if it does not run; as many calls of `stop` end it."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._stopped = Event()
                properties = client_properties(self._settings)
                from confluent_kafka.admin import AdminClient

                admin = make_client(AdminClient, properties)
                Thread(target=self._run, args=(admin, properties, self._stopped), daemon=True).start()

    def stop(self) -> None:
        """End the thread after the last user has stopped."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._stopped.set()

    def _run(self, admin: Any, properties: dict[str, Any], stopped: Event) -> None:
        while not stopped.is_set():
            try:
                self._refresh(admin)
            except Exception as error:  # noqa: BLE001  events are still read meanwhile; the error is logged and the refresh repeated
                self._warn(mask_values(_error_text(error), properties))
                stopped.wait(_RETRY_AFTER_S)
                continue
            if self._failing_since is not None:
                log.info(
                    "kafka.back", topic=self.topic, after_s=round(time.monotonic() - self._failing_since, 1)
                )
                self._failing_since = None
            stopped.wait(REFRESH_EVERY_S)

    def _refresh(self, admin: Any) -> None:
        from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
        from confluent_kafka.admin import OffsetSpec

        described = admin.describe_topics(TopicCollection([self.topic]), request_timeout=_ANSWER_S)
        try:
            found = described[self.topic].result()
        except KafkaException as error:
            self.missing = error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
            raise
        self.missing = False
        topic_id, known = str(found.topic_id), dict(self.facts.earliest) if self.facts else {}
        if self.facts and self.facts.topic_id != topic_id:
            self.replaced = True
            return
        new = [TopicPartition(self.topic, p.id) for p in found.partitions if p.id not in known]
        if new:
            offsets = admin.list_offsets(dict.fromkeys(new, OffsetSpec.earliest()), request_timeout=_ANSWER_S)
            known |= {tp.partition: int(of.result().offset) for tp, of in offsets.items()}
            if self.facts:
                log.info("kafka.new_partitions", topic=self.topic, partitions=len(known))
            self.facts = TopicFacts(topic_id, known)

    def _warn(self, error: str) -> None:
        if self._failing_since is not None:
            return
        self._failing_since = time.monotonic()
        if self.missing:
            log.warning(
                "kafka.no_topic",
                topic=self.topic,
                todo="nothing is read until the topic exists: create it, or name another in MILLSTREAM_KAFKA_TOPICS",
            )
            return
        log.warning(
            "kafka.unreachable",
            topic=self.topic,
            servers=self._settings.kafka_bootstrap_servers,
            error=error,
            todo="the flow waits and tries again; check the brokers, KAFKA_BOOTSTRAP_SERVERS and what this user may do",
        )


class TopicPartitions(AbstractSet[str]):
    """Names of a topic's partitions known so far; `in` is true for later ones too.

    Before the brokers have answered it holds one name that no partition has, so that no reader takes the set for
    complete.
    """

    def __init__(self, stream: str, watch: TopicWatch) -> None:
        self._prefix = f"kafka:{stream}:"
        self._watch = watch

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.startswith(self._prefix)

    def __iter__(self) -> Iterator[str]:
        facts = self._watch.facts
        return iter([self.name(p) for p in facts.earliest] if facts else [f"{self._prefix}?"])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def name(self, partition: int) -> str:
        """Return the name of a partition in the log."""
        return f"{self._prefix}{partition}"


def _error_text(error: Exception) -> str:
    """Return the client's text of an error."""
    inner: Any = error.args[0] if error.args else None
    return str(inner.str()) if hasattr(inner, "str") else f"{type(error).__name__}: {error}"
