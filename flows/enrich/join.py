"""Join columns of other streams to events: as of the event, as known when it was accepted.

An event whose key is not known, or whose key is null, is kept with nulls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from threading import Lock
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.enrichment.joins import AsOfJoin, IdJoin, Join
from feature_repo.windows.columns import BlockColumns
from flows.blocks import Events
from flows.enrich.changelogs import BusFollower, Changelogs, LogFollower
from flows.enrich.kafka_changelogs import TopicChangelogs, TopicFollower
from flows.settings import FlowSettings
from flows.streams import STREAMS, EventStream

_US: Final = timedelta(microseconds=1)
_KEPT: Final = 24
"""Live, a join keeps versions for 24 times its window (a day for an hour): a flow may pause that long."""


class Joiner:
    """Joins columns to admitted events. One per process: its workers share the followers."""

    def __init__(
        self, stream: EventStream, settings: FlowSettings, newest_ms: Callable[[], int] | None = None
    ) -> None:
        """`newest_ms`, of Kafka: the highest timestamp read so far (`flows.sources.kafka`)."""
        self._stream = stream
        self._newest_ms = newest_ms
        self._settings = settings
        self._lock = Lock()
        self._followers: list[tuple[Join, LogFollower]] = []
        self._changelogs: Changelogs | TopicChangelogs | None = None

    def __call__(self, events: Events) -> Events:
        """Return the events with the joined columns."""
        with self._lock:
            if not self._followers:
                self._follow()
            rows = events.rows
            if self._changelogs is not None:
                times = rows["created_timestamp"].view(pa.int64()).to_numpy()
                accepted = int(times.max()) if len(times) else 0
                self._changelogs.read_to(accepted)
            for join, follower in self._followers:
                rows = _joined(rows, join, follower)
        return replace(events, rows=rows)

    def _follow(self) -> None:
        live = not self._settings.files
        followed = []
        for join in self._stream.joins:
            stream = STREAMS[join.stream]
            key = join.their_key if isinstance(join, AsOfJoin) else stream.id_column
            within = join.within // _US if join.within is not None else 0
            follower = LogFollower(
                stream,
                self._settings,
                key,
                tuple(join.columns),
                within,
                keep_us=_KEPT * within if live else 0,  # files may hold events of any time
                staged=isinstance(join, IdJoin),
            )
            follower.look(now=True)
            self._followers.append((join, follower))
            if live and isinstance(join, AsOfJoin):
                followed.append(follower)
        if followed and self._newest_ms is not None:
            on_topics = [TopicFollower(follower, self._settings) for follower in followed]
            self._changelogs = TopicChangelogs(on_topics, self._settings, self._newest_ms)
        elif followed:
            on_bus = [BusFollower(follower, self._settings) for follower in followed]
            self._changelogs = Changelogs(on_bus, self._settings)


def _joined(rows: pa.RecordBatch, join: Join, follower: LogFollower) -> pa.RecordBatch:
    block = BlockColumns(rows)
    keys, known = block.keys((join.key,)), block.has_keys((join.key,))
    if isinstance(join, AsOfJoin):
        found = follower.versions.at(
            keys, block.times("event_timestamp"), block.times("created_timestamp"), known
        )
    else:
        follower.look()
        found = follower.versions.latest(keys, known)
        if found[0].null_count and follower.look(now=True):
            found = follower.versions.latest(keys, known)  # it may have been logged a moment ago
    columns, fields = list(rows.columns), list(rows.schema)
    for ours, column in zip(join.columns.values(), found, strict=True):
        at = rows.schema.get_field_index(ours)
        if at < 0:
            columns.append(column)
            fields.append(pa.field(ours, column.type))
        else:
            columns[at] = pc.coalesce(columns[at], column)
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))
