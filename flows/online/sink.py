"""Sink of window states: writes them into Redis by compare-and-set on their version.

Unit of parallelism: the key shard. Delivery: at least once, and idempotent: a state that is not newer than the stored
one changes nothing. The snapshot is None. The sink is partitioned all the same, because Bytewax waits only for sinks
that take part in snapshots: an epoch is durable when its states are in the store.

While the server is unreachable the sink retries, and the flow waits; after a minute the process ends, and the next
start replays the epoch. How lost writes are detected: `flows.online.rollback_detector`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import get_ident
from typing import Any

import redis
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from redis.backoff import NoBackoff
from redis.retry import Retry

from feature_repo.errors import OnlineStoreError
from feature_repo.windows.spec import ViewSpec
from flows import metrics
from flows.online.outbox import Outbox, Resend
from flows.online.retry import call_with_retry
from flows.online.rollback_detector import Progress, store_progress
from flows.online.rows import OnlineRows
from flows.online.writers import Projections
from flows.settings import FlowSettings


class OnlineSink(FixedPartitionedSink[OnlineRows, None]):
    """One part per key shard; the key of an item ends in its shard (`account_id:03`)."""

    def __init__(
        self, projections: Projections, settings: FlowSettings, kept: Sequence[ViewSpec] = ()
    ) -> None:
        self._projections = projections
        self._kept = kept
        self._shards = settings.key_shards
        self._outboxes: dict[int, Outbox] = {}

    def list_parts(self) -> list[str]:
        """`00`, `01`, ..."""
        return [f"{shard:02d}" for shard in range(self._shards)]

    def part_fn(self, item_key: str) -> int:
        """The shard."""
        return int(item_key.rpartition(":")[2])

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> OnlinePart:
        """The writer of one shard; there is no state to resume."""
        del step_id, resume_state
        call_with_retry(lambda: self._projections.publish(self._kept))
        worker = get_ident()
        if worker not in self._outboxes:
            self._outboxes[worker] = Outbox(self._projections.client)
        return OnlinePart(self._projections, int(for_part), self._outboxes[worker])


class OnlinePart(StatefulSinkPartition[OnlineRows, None]):
    """Writes the states of one shard and publishes which versions are complete in it."""

    def __init__(self, projections: Projections, shard: int, outbox: Outbox) -> None:
        self._projections = projections
        self._shard = shard
        self._outbox = outbox
        self._progress: dict[str, Progress] = {}

    def write_batch(self, values: list[OnlineRows]) -> None:
        """Send the states; their replies are read at the end of the epoch. Raises `OnlineStoreError`."""
        for states in values:
            entity = "+".join(states.entity)
            began = time.perf_counter()
            if states.rows:
                self._outbox.post(states.rows, self._resend(states.views))
            if states.progress is not None:
                self._progress[states.progress.field] = states.progress
            if states.filled:
                self._outbox.flush()
                self._mark_filled(states.filled)
            metrics.ONLINE_WRITE.labels(entity).observe(time.perf_counter() - began)
            metrics.STATES_WRITTEN.labels(entity).inc(len(states.rows))
            if states.oldest_accepted_us:
                metrics.FRESHNESS.labels(entity).observe(
                    max(time.time() - states.oldest_accepted_us / 1e6, 0.0)
                )

    def _resend(self, versions: tuple[str, ...]) -> Resend:
        writer = self._projections.by(versions)
        return lambda calls: call_with_retry(lambda: writer.send(calls))

    def _mark_filled(self, versions: tuple[str, ...]) -> None:
        call_with_retry(lambda: self._projections.mark_filled(versions, self._shard))

    def snapshot(self) -> None:
        """Wait until the store has everything that was sent, then store the progress. There is no state to keep."""
        self._outbox.flush()
        progress = self._progress.values()
        if progress and store_progress(self._outbox, progress, self._projections.client):
            self._progress.clear()

    def close(self) -> None:
        """Wait for the replies to everything that was sent."""
        self._outbox.flush()


def connect(settings: FlowSettings) -> Any:
    """The redis-py client that all writers of a process share, with short timeouts and no retries of its own."""
    return redis.Redis.from_url(
        settings.redis_url, socket_timeout=5.0, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 0)
    )


def no_answer(error: redis.RedisError, settings: FlowSettings) -> OnlineStoreError:
    """The error of a command for an error of the server, or a server that does not answer."""
    return OnlineStoreError(
        f"the online store could not be used: {error}",
        where=settings.redis_url,
        todo="start the server (`make up` or `python -m flows.up --only-server` runs an embedded one) or correct "
        "REDIS_URL, then run this command again",
    )
