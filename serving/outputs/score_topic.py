"""Scores and alerts to topics of Kafka, off the request's path: one record per answer, keyed by account, without the feature vector.

An answer is appended to a list in memory; a task hands the list to a thread, which gives it to an idempotent producer. What fails is
counted, told and sent again. The list is bounded: while the brokers are away longer than it lasts, answers are dropped and counted, for a
topic never holds up a score. The score log has them all.
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
"""Of a line of the score log; times in UTC microseconds, the account as its pseudonym."""
ALERTS: Final = frozenset({"review", "decline"})
_EVERY_S: Final = 0.1
_STOP_S: Final = 5.0


class ScoreTopic:
    """Appends answers to `MILLSTREAM_SCORE_TOPIC`, and those that are no approval to `MILLSTREAM_ALERT_TOPIC`."""

    def __init__(self, settings: ScorerSettings) -> None:
        self._topics = (settings.score_topic, settings.alert_topic)
        self._room = settings.score_log_buffer
        self._waiting: list[dict[str, Any]] = []
        self._producer = TopicProducer(settings, _failed)
        self._task: asyncio.Task[None] | None = None

    def append(self, record: dict[str, Any]) -> None:
        """Never waits and never fails."""
        if len(self._waiting) + self._producer.waiting >= self._room:
            metrics.TOPIC_DROPPED.labels("full").inc()
            return
        self._waiting.append(record)

    async def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._send_for_ever(), name="score-topic")

    async def stop(self) -> None:
        """Send what is left; what the brokers have not acknowledged in time is counted and told."""
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

    async def _send_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            # A thread that was begun is waited for: the producer is one thread's.
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
