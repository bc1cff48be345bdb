"""Sink of plain feature views: writes the newest row of each key into Redis, as Feast's own store keeps it.

Unit of parallelism: the log part, one per run, so that a stream has one writer. Delivery: at least once, and
idempotent: an older row changes nothing, and the same row again gives the same value. The sink is partitioned because
Bytewax waits only for sinks that take part in snapshots: an epoch is durable when its rows are in the store. The
snapshot is the progress number by which a later start tells whether the store still has these rows
(`flows.online.rollback_detector`); if it lost some, all views are written again from the log, a little at a time.

A view that the store does not have as it is defined now (new, changed, or the store was emptied) is written from the
log at the start. The hash `millstream:projected:<project>` lists the views that were, so nothing has to be backfilled
by hand.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import structlog
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from feature_repo.errors import DefinitionError
from feature_repo.stores.applied_views import read_views
from feature_repo.stores.online.plain_writer import PlainProjection, projected_key
from flows import metrics
from flows.log.files import log_files
from flows.online.outbox import Outbox
from flows.online.retry import call_with_retry
from flows.online.rollback_detector import Loss, RollbackDetector, WriteSession, store_progress
from flows.online.sink import connect
from flows.settings import FlowSettings
from flows.streams import EventStream

log = structlog.get_logger(__name__)

CHUNK: Final = 2_000
"""Keys sent at a time when a view is written from the log."""
FIELD: Final = "plain"
"""This writer's field in the hash of `flows.online.rollback_detector`."""


class PlainOnlineSink(FixedPartitionedSink[pa.RecordBatch, int | None]):
    """Takes record batches of a stream's log schema; the key of an item does not matter, one part takes all."""

    def __init__(self, part: str, stream: EventStream, settings: FlowSettings) -> None:
        self._part = part
        self._stream = stream
        self._settings = settings

    def list_parts(self) -> list[str]:
        """The one part of this run."""
        return [self._part]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> PlainOnlinePart:
        """Return a writer whose views are up to date; `resume_state` is the progress. Raises `OnlineStoreError`."""
        del step_id, for_part
        views = PlainViews(self._stream, self._settings)
        views.catch_up()
        return PlainOnlinePart(views, resume_state or 0, live=not self._settings.files)


class PlainOnlinePart(StatefulSinkPartition[pa.RecordBatch, int | None]):
    """Writes rows as they come, and all views again after the store lost writes."""

    def __init__(self, views: PlainViews, written: int, *, live: bool) -> None:
        self._views = views
        self._live = live
        self._epoch_batches: list[pa.RecordBatch] = []
        self._rewrite: Iterator[int] | None = None
        """Writes everything again, one step per item; None when nothing is to be rewritten."""
        self._since_rewrite: list[pa.RecordBatch] = []
        """Batches since the rewrite began; written again at its end, after rows of the log with equal times."""
        self._stored = 0
        """Progress number in the store."""
        self._rest_until = 0.0
        self._session: WriteSession | None = None
        self._detector = views.detector if live else None
        self._outbox = Outbox(views.client)
        if self._detector is not None:
            self._session = self._detector.start(FIELD, written)
            if self._session.loss is Loss.CERTAIN:
                self._rewrite = views.from_log(views.projections)

    def write_batch(self, values: list[pa.RecordBatch]) -> None:
        """Write the rows, one pipelined round trip per view. Raises `OnlineStoreError`."""
        self._continue_rewrite(0.05)
        batches = [rows for rows in values if rows.num_rows]
        if not self._views.projections or not batches:
            return
        if self._session is not None:
            self._session.advance()
            self._epoch_batches += batches
            if self._rewrite is not None:
                self._since_rewrite += batches
        self._write(batches)

    def _write(self, batches: list[pa.RecordBatch]) -> None:
        rows = pa.Table.from_batches(batches)
        for projection in self._views.projections:
            name = projection.spec.name
            began = time.perf_counter()
            written = _send(projection, rows.select(projection.columns))
            metrics.PLAIN_WRITE.labels(name).observe(time.perf_counter() - began)
            metrics.PLAIN_ROWS_WRITTEN.labels(name).inc(written)
            if self._live:
                oldest = pc.min(rows["created_timestamp"].cast(pa.int64())).as_py()
                metrics.FRESHNESS.labels(name).observe(max(time.time() - oldest / 1e6, 0.0))

    def snapshot(self) -> int | None:
        """Look for lost writes, store the progress; returns its number, None in a run over files."""
        if self._detector is None or self._session is None:
            return None
        if (renewed := self._detector.check(self._session)) is not None:
            self._session = renewed
            self._session.advance()
            self._rewrite = self._views.from_log(self._views.projections)
            # Earlier epochs are in the log or staged for it; this one may not be.
            self._since_rewrite = self._epoch_batches
        self._epoch_batches = []
        self._continue_rewrite(0.25)
        progress = self._session.progress()
        due = self._rewrite is None and progress.number > self._stored
        if due and store_progress(self._outbox, [progress], self._views.client):
            self._stored = progress.number
        return progress.number

    def _continue_rewrite(self, seconds: float) -> None:
        """Go on with the rewrite for about `seconds`, then rest as long: it takes at most half of the time."""
        began = time.monotonic()
        if self._rewrite is None or began < self._rest_until:
            return
        for _ in self._rewrite:
            if time.monotonic() > began + seconds:
                break
        else:
            self._rewrite = None
            if self._since_rewrite:
                self._write(self._since_rewrite)
            self._since_rewrite = []
        ended = time.monotonic()
        self._rest_until = ended + (ended - began)


class PlainViews:
    """The plain views of a stream as last applied, which can be written from its log.

    `client` is None if no views were applied; `detector` is None without plain views.
    """

    def __init__(self, stream: EventStream, settings: FlowSettings) -> None:
        self._stream = stream
        self._settings = settings
        self.client: Any = None
        self.detector: RollbackDetector | None = None
        self.projections: tuple[PlainProjection, ...] = ()
        try:
            views = read_views(settings.home / "views.json")
        except DefinitionError:  # nothing was applied, which the flow logs once
            return
        self.client = connect(settings)
        self._projected = projected_key(views.project)
        self.projections = tuple(
            PlainProjection(self.client, views.project, spec, stream.log_schema)
            for spec in views.plain.get(stream.name, ())
        )
        if self.projections:
            self.detector = RollbackDetector(self.client, views.project, stream.name)

    def catch_up(self) -> dict[str, int]:
        """Write the views that the store does not have as they are now; returns the number of keys written by view.

        Reads staged files too, since their epoch may be durable already. One that is not is replayed and gives the same
        values. Raises `OnlineStoreError`, `LogError` and redis-py's errors.
        """
        if self.client is None:
            return {}
        wanted = {p.spec.name: self._definition(p) for p in self.projections}
        held = {k.decode(): v.decode() for k, v in self.client.hgetall(self._projected).items()}
        gone = [v for v, made in held.items() if made.split(" ")[0] == self._stream.name and v not in wanted]
        if gone:  # from here on they miss rows
            self.client.hdel(self._projected, *gone)
        missing = [p for p in self.projections if held.get(p.spec.name) != wanted[p.spec.name]]
        return {p.spec.name: sum(self.from_log([p])) for p in missing}

    def _definition(self, projection: PlainProjection) -> str:
        return f"{self._stream.name} {projection.spec.fingerprint}"

    def from_log(self, projections: Sequence[PlainProjection]) -> Iterator[int]:
        """Write all rows of these views from the log in steps; yield the number of keys written in each step."""
        for projection in projections:
            schema = pa.schema([self._stream.log_schema.field(name) for name in projection.columns])
            newest = schema.empty_table()
            for file in log_files(self._stream, self._settings):
                rows = file.read(projection.columns)
                columns = [rows[f.name] for f in schema]
                newest = projection.newest(
                    pa.concat_tables([newest, pa.Table.from_arrays(columns, schema=schema)])
                )
                yield 0
            for start in range(0, newest.num_rows, CHUNK):
                yield _send(projection, newest.slice(start, CHUNK))
            self.client.hset(self._projected, projection.spec.name, self._definition(projection))
            if newest.num_rows:
                log.info("online.caught_up", view=projection.spec.name, keys=newest.num_rows)


def _send(projection: PlainProjection, table: pa.Table) -> int:
    """Write the newest row of each key of the table; returns the number of keys sent. Raises `OnlineStoreError`."""
    rows = projection.rows(table)
    call_with_retry(lambda: projection.send(rows))
    return len(rows)
