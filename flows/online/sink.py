"""The online store as a sink: window states into Redis, compare-and-set on their version.

Unit of parallelism: the key shard. Delivery: at least once, and idempotent: a state whose version is not newer than the
stored one changes nothing. The snapshot is None; the sink is partitioned all the same, because Bytewax only waits for
sinks that take part in snapshots: an epoch is durable when its states are in the store.

While the server is unreachable the sink waits and tries again, and the flow with it; after a minute it gives up, which
ends the process, and the next start replays the epoch. How it is noticed that a server has lost what was written: `flows.online.loss_detector`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from threading import get_ident
from typing import Any

import redis
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from redis.backoff import NoBackoff
from redis.retry import Retry

from feature_repo.errors import OnlineStoreError
from feature_repo.windows.spec import ViewSpec
from flows import metrics
from flows.online.loss_detector import Mark, write_marks
from flows.online.outbox import Outbox
from flows.online.retry import send_patiently
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
        """A writer; there is nothing to resume."""
        del step_id, resume_state
        send_patiently(self._projections.publish, self._kept)
        worker = get_ident()
        if worker not in self._outboxes:
            self._outboxes[worker] = Outbox(self._projections.client)
        return OnlinePart(self._projections, int(for_part), self._outboxes[worker])


class OnlinePart(StatefulSinkPartition[OnlineRows, None]):
    """Sends what comes, at once, and says which versions are complete in its shard."""

    def __init__(self, projections: Projections, shard: int, outbox: Outbox) -> None:
        self._projections = projections
        self._shard = shard
        self._outbox = outbox
        self._marks: dict[str, Mark] = {}

    def write_batch(self, values: list[OnlineRows]) -> None:
        """Answers are read at the end of the epoch."""
        for states in values:
            entity = "+".join(states.entity)
            began = time.perf_counter()
            if states.rows:
                again = partial(send_patiently, self._projections.by(states.views).send)
                self._outbox.post(states.rows, again)
            if states.mark is not None:
                self._marks[states.mark.field] = states.mark
            if states.filled:
                self._outbox.flush()
                self._mark(states.filled)
            metrics.ONLINE_WRITE.labels(entity).observe(time.perf_counter() - began)
            metrics.STATES_WRITTEN.labels(entity).inc(len(states.rows))
            if states.oldest_accepted_us:
                metrics.FRESHNESS.labels(entity).observe(
                    max(time.time() - states.oldest_accepted_us / 1e6, 0.0)
                )

    def _mark(self, versions: tuple[str, ...]) -> None:
        send_patiently(lambda filled: self._projections.mark(filled, self._shard), versions)

    def snapshot(self) -> None:
        """Nothing to remember: what was sent is in the store, which is told so."""
        self._outbox.flush()
        if self._marks and write_marks(self._outbox, self._marks, self._projections.client):
            self._marks.clear()

    def close(self) -> None:
        """The end of the events."""
        self._outbox.flush()


def connect(settings: FlowSettings) -> Any:
    """The client all writers of a process share; a frozen server costs seconds, not minutes."""
    return redis.Redis.from_url(
        settings.redis_url, socket_timeout=5.0, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 0)
    )


def no_answer(error: redis.RedisError, settings: FlowSettings) -> OnlineStoreError:
    """What a command says that met an error of the server, or no server."""
    return OnlineStoreError(
        f"the server does not do its part: {error}",
        where=settings.redis_url,
        todo="start it (an embedded one runs with `make up` or `python -m flows.up --only-server`) or correct REDIS_URL, then run "
        "this again",
    )
