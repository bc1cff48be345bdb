"""Plain feature views as a sink: the newest row of each key into Redis, as Feast's own store keeps it.

Unit of parallelism: the log part, one per run, so that a stream has one writer. Delivery: at least once, and idempotent: an
older row changes nothing, the same row again ends at the same value. As with window states the snapshot is None and the sink
partitioned all the same: an epoch is durable when its rows are in the store.

A view the store does not have yet, because it is new, has changed, or the store was emptied, is brought up to date from the
log at the start; the store itself says which were (`millstream:projected:<project>`). So nothing needs to be backfilled by hand.
"""

from __future__ import annotations

import time
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import structlog
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from feature_repo.errors import DefinitionError
from feature_repo.stores.plain_projection import PlainProjection, projected_key
from feature_repo.stores.specs import read_views
from flows import metrics
from flows.connectors.online import connect, send_patiently
from flows.log_rows import log_files
from flows.settings import FlowSettings
from flows.streams import EventStream

log = structlog.get_logger(__name__)

CHUNK: Final = 20_000
"""Keys sent at a time when a view is brought up to date."""


class PlainOnlineSink(FixedPartitionedSink[pa.RecordBatch, None]):
    """Takes record batches of a stream's log schema; the key of an item does not matter, one part takes all."""

    def __init__(self, part: str, stream: EventStream, settings: FlowSettings) -> None:
        self._part = part
        self._stream = stream
        self._settings = settings

    def list_parts(self) -> list[str]:
        """The one part of this run."""
        return [self._part]

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> PlainOnlinePart:
        """A writer whose views are up to date with the log."""
        del step_id, for_part, resume_state
        keeper = PlainViews(self._stream, self._settings)
        keeper.catch_up()
        return PlainOnlinePart(keeper, live=not self._settings.files)


class PlainOnlinePart(StatefulSinkPartition[pa.RecordBatch, None]):
    """Writes what comes, at once."""

    def __init__(self, views: PlainViews, *, live: bool) -> None:
        self._views = views
        self._live = live

    def write_batch(self, values: list[pa.RecordBatch]) -> None:
        """One pipelined round trip per view and batch."""
        batches = [rows for rows in values if rows.num_rows]
        if not self._views.projections or not batches:
            return
        rows = pa.Table.from_batches(batches)
        for projection in self._views.projections:
            name = projection.spec.name
            began = time.perf_counter()
            made = projection.rows(rows.select(projection.columns))
            send_patiently(projection.send, made)
            metrics.PLAIN_WRITE.labels(name).observe(time.perf_counter() - began)
            metrics.PLAIN_ROWS_WRITTEN.labels(name).inc(len(made))
            if self._live:
                oldest = pc.min(rows["created_timestamp"].cast(pa.int64())).as_py()
                metrics.FRESHNESS.labels(name).observe(max(time.time() - oldest / 1e6, 0.0))

    def snapshot(self) -> None:
        """Nothing: what was written is in the store."""
        return


class PlainViews:
    """The plain views of a stream that were last applied, and the way to bring them up to date from its log."""

    def __init__(self, stream: EventStream, settings: FlowSettings) -> None:
        self._stream = stream
        self._settings = settings
        try:
            views = read_views(settings.home / "views.json")
        except DefinitionError:  # nothing applied: the flow says so once
            self._client: Any = None
            self.projections: tuple[PlainProjection, ...] = ()
            return
        self._client = connect(settings)
        self._marks = projected_key(views.project)
        self.projections = tuple(
            PlainProjection(self._client, views.project, spec, stream.log_schema)
            for spec in views.plain.get(stream.name, ())
        )

    def catch_up(self, *, anyway: bool = False) -> dict[str, int]:
        """Write views the store does not have as they are now, or all; returns the keys written, by view.

        Staged files count too: their epoch may be durable already. One that is not is replayed, and ends at the same value.
        """
        if self._client is None:
            return {}
        marks = {p.spec.name: f"{self._stream.name} {p.spec.fingerprint}" for p in self.projections}
        held = {k.decode(): v.decode() for k, v in self._client.hgetall(self._marks).items()}
        gone = [v for v, mark in held.items() if mark.split(" ")[0] == self._stream.name and v not in marks]
        if gone:  # from here on they miss rows
            self._client.hdel(self._marks, *gone)
        todo = [p for p in self.projections if anyway or held.get(p.spec.name) != marks[p.spec.name]]
        written = {p.spec.name: self._from_log(p) for p in todo}
        if written:
            self._client.hset(self._marks, mapping={name: marks[name] for name in written})
        return written

    def _from_log(self, projection: PlainProjection) -> int:
        schema = pa.schema([self._stream.log_schema.field(name) for name in projection.columns])
        newest = schema.empty_table()
        for file in log_files(self._stream, self._settings):
            rows = file.read(projection.columns)
            columns = [rows[f.name] for f in schema]
            newest = projection.newest(
                pa.concat_tables([newest, pa.Table.from_arrays(columns, schema=schema)])
            )
        if not newest.num_rows:
            return 0
        for start in range(0, newest.num_rows, CHUNK):
            send_patiently(projection.send, projection.rows(newest.slice(start, CHUNK)))
        log.info("online.caught_up", view=projection.spec.name, keys=newest.num_rows)
        return int(newest.num_rows)
