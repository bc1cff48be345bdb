"""Scores and alerts to Kafka topics: one record per answer, keyed by account, without the feature vector.

Answers are appended to a list in memory; a task hands the list to a thread with an idempotent producer. Failures are
counted, logged and sent again. The list is bounded: if the brokers are away for longer than it lasts, answers are
dropped and counted, so a topic never delays a score. The score log has all answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import orjson
import structlog

from feature_repo.kafka.producer import TopicProducer
from serving import metrics
from serving.settings import ScorerSettings

log = structlog.get_logger(__name__)

FIELDS: Final = (
    "score_id",
    "event_id",
    "account_id",
    "event_timestamp",
    "scored_at",
    "score",
    "decision",
    "model_name",
    "model_version",
    "degraded",
)
"""Fields of a record, as in the score log: times are int64 UTC us, the account is its pseudonym."""
ALERTS: Final = frozenset({"review", "decline"})
_EVERY_S: Final = 0.1
_STOP_S: Final = 5.0


class ScoreTopic:
    """Sends answers to `MILLSTREAM_SCORE_TOPIC`, and reviews and declines to `MILLSTREAM_ALERT_TOPIC`."""

    def __init__(self, settings: ScorerSettings) -> None:
        self._topics = (settings.score_topic, settings.alert_topic)
        self._room = settings.score_log_buffer
        self._waiting: list[dict[str, Any]] = []
        self._producer = TopicProducer(settings, _failed)
        self._task: asyncio.Task[None] | None = None

    def append(self, record: dict[str, Any]) -> None:
        """Buffer the record of an answer; never waits and never raises."""
        if len(self._waiting) + self._producer.waiting >= self._room:
            metrics.TOPIC_DROPPED.labels("full").inc()
            return
        self._waiting.append(record)

    async def start(self) -> None:
        """Start to send every 0.1 s."""
        self._task = asyncio.create_task(self._send_periodically(), name="score-topic")

    async def stop(self) -> None:
        """Stop, and send what is left; records that the brokers do not acknowledge in time are counted and logged."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await asyncio.to_thread(self._send, self._take())
        left = await asyncio.to_thread(self._producer.flush, _STOP_S)
        if left:
            metrics.TOPIC_DROPPED.labels("stopped").inc(left)
            log.error("score_topic.not_delivered", records=left, todo="they are in the score log")

    async def _send_periodically(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            # The thread is waited for: the producer belongs to one thread at a time.
            sending = asyncio.ensure_future(asyncio.to_thread(self._send, self._take()))
            try:
                await asyncio.shield(sending)
            except asyncio.CancelledError:
                await sending
                raise

    def _take(self) -> list[dict[str, Any]]:
        taken, self._waiting = self._waiting, []
        return taken

    def _send(self, records: list[dict[str, Any]]) -> None:
        scores, alerts = self._topics
        for record in records:
            value = orjson.dumps(
                {name: record.get(name) for name in FIELDS}, option=orjson.OPT_SERIALIZE_NUMPY
            )
            key = str(record.get("account_id") or "").encode()
            topics = [scores, alerts if record["decision"] in ALERTS else ""]
            for topic in filter(None, topics):
                self._producer.send(topic, key, value)
                metrics.TOPIC_SENT.labels(topic).inc()
        self._producer.poll()


def _failed(name: str, lost: bool) -> None:
    metrics.TOPIC_FAILED.labels(name).inc()
    if lost:
        metrics.TOPIC_DROPPED.labels("refused").inc()
