"""Plain feature views as a sink: the newest row of each key into Redis, as Feast's own store keeps it.

Unit of parallelism: the log part, one per run, so that a stream has one writer. Delivery: at least once, and idempotent: an
older row changes nothing, the same row again ends at the same value. The sink is partitioned, because Bytewax only waits for sinks
that take part in snapshots: an epoch is durable when its rows are in the store. The snapshot is the number that tells whether the
store still has them (`flows.online.loss_detector`); where it lost some, all views are brought up to date from the log, a little at a time.

A view the store does not have yet, because it is new, has changed, or the store was emptied, is brought up to date from the
log at the start; the store itself says which were (`millstream:projected:<project>`). So nothing needs to be backfilled by hand.
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
from flows.online.loss_detector import Standing, StoreWatch, write_marks
from flows.online.outbox import Outbox
from flows.online.retry import send_patiently
from flows.online.sink import connect
from flows.settings import FlowSettings
from flows.streams import EventStream

log = structlog.get_logger(__name__)

CHUNK: Final = 2_000
"""Keys sent at a time when a view is brought up to date."""
FIELD: Final = "plain"
"""Where the store keeps how far this writer has come."""


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
        """A writer whose views are up to date with the log."""
        del step_id, for_part
        keeper = PlainViews(self._stream, self._settings)
        keeper.catch_up()
        return PlainOnlinePart(keeper, resume_state or 0, live=not self._settings.files)


class PlainOnlinePart(StatefulSinkPartition[pa.RecordBatch, int | None]):
    """Writes what comes, at once."""

    def __init__(self, views: PlainViews, written: int, *, live: bool) -> None:
        self._views = views
        self._live = live
        self._of_epoch: list[pa.RecordBatch] = []
        self._again: Iterator[int] | None = None
        """The work of writing everything again, while it lasts."""
        self._meanwhile: list[pa.RecordBatch] = []
        """What came since: it is written once more at the end, after rows of the log of the same time."""
        self._marked = 0
        self._rest_until = 0.0
        self._standing: Standing | None = None
        self._watch = views.watch if live else None
        self._outbox = Outbox(views.client)
        if self._watch is not None:
            self._standing = self._watch.begin(FIELD, written)
            if self._standing.gone:
                self._again = views.from_log(views.projections)

    def write_batch(self, values: list[pa.RecordBatch]) -> None:
        """One pipelined round trip per view and batch."""
        self._work(0.05)
        batches = [rows for rows in values if rows.num_rows]
        if not self._views.projections or not batches:
            return
        if self._standing is not None:
            self._standing.count()
            self._of_epoch += batches
            if self._again is not None:
                self._meanwhile += batches
        self._write(batches)

    def _write(self, batches: list[pa.RecordBatch]) -> None:
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

    def snapshot(self) -> int | None:
        """What was written is in the store, which is told so."""
        if self._watch is None or self._standing is None:
            return None
        if why := self._watch.trouble(self._standing):
            self._standing = self._watch.begin_anew(self._standing, why)
            self._standing.count()
            self._again = self._views.from_log(self._views.projections)
            self._meanwhile = (
                self._of_epoch
            )  # earlier epochs are in the log or staged for it; this one may not be
        self._of_epoch = []
        self._work(0.25)
        number = self._standing.number
        if self._again is None and number > self._marked:
            mark = {FIELD: self._standing.mark(self._watch.hash)}
            if write_marks(self._outbox, mark, self._views.client):
                self._marked = number
        return number

    def _work(self, seconds: float) -> None:
        """Go on with writing everything again, for about so long and at most half of the time."""
        now = time.monotonic()
        if self._again is None or now < self._rest_until:
            return
        for _ in self._again:
            if time.monotonic() > now + seconds:
                break
        else:
            self._again = None
            if self._meanwhile:
                self._write(self._meanwhile)
            self._meanwhile = []
        self._rest_until = time.monotonic() + (time.monotonic() - now)


class PlainViews:
    """The plain views of a stream that were last applied, and the way to bring them up to date from its log."""

    def __init__(self, stream: EventStream, settings: FlowSettings) -> None:
        self._stream = stream
        self._settings = settings
        try:
            views = read_views(settings.home / "views.json")
        except DefinitionError:  # nothing applied: the flow says so once
            self.client: Any = None
            self.watch: StoreWatch | None = None
            self.projections: tuple[PlainProjection, ...] = ()
            return
        self.client = connect(settings)
        self._marks = projected_key(views.project)
        self.projections = tuple(
            PlainProjection(self.client, views.project, spec, stream.log_schema)
            for spec in views.plain.get(stream.name, ())
        )
        self.watch = StoreWatch(self.client, views.project, stream.name) if self.projections else None

    def catch_up(self, *, anyway: bool = False) -> dict[str, int]:
        """Write views the store does not have as they are now, or all; returns the keys written, by view.

        Staged files count too: their epoch may be durable already. One that is not is replayed, and ends at the same value.
        """
        if self.client is None:
            return {}
        marks = {p.spec.name: self._mark_of(p) for p in self.projections}
        held = {k.decode(): v.decode() for k, v in self.client.hgetall(self._marks).items()}
        gone = [v for v, mark in held.items() if mark.split(" ")[0] == self._stream.name and v not in marks]
        if gone:  # from here on they miss rows
            self.client.hdel(self._marks, *gone)
        todo = [p for p in self.projections if anyway or held.get(p.spec.name) != marks[p.spec.name]]
        return {p.spec.name: sum(self.from_log([p])) for p in todo}

    def _mark_of(self, projection: PlainProjection) -> str:
        return f"{self._stream.name} {projection.spec.fingerprint}"

    def from_log(self, projections: Sequence[PlainProjection]) -> Iterator[int]:
        """Write all rows of these views again, a little with every step of the iterator: how many keys were written in it."""
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
                some = newest.slice(start, CHUNK)
                send_patiently(projection.send, projection.rows(some))
                yield some.num_rows
            self.client.hset(self._marks, projection.spec.name, self._mark_of(projection))
            if newest.num_rows:
                log.info("online.caught_up", view=projection.spec.name, keys=newest.num_rows)
