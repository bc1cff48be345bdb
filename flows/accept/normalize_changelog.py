"""Versions of rows as they are kept: what every reader of a changelog may take for granted, made so once, before the log.

- `deleted` is never null: null means false.
- A deleted row says nothing but its id, its time, its key and that it is deleted, whatever its producer left in it. So online
  store, point-in-time join and enrichment need no rule for deletions: the values are null.
- A timestamp other than the event's own is in whole seconds, cut. Feast's `UNIX_TIMESTAMP` holds seconds on line; the log, and
  with it every read off line, says the same.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from flows.blocks import TIMESTAMP, Events
from flows.streams import EventStream

DELETED = "deleted"


class ChangelogNormalizer:
    """Settles the rows of a changelog; call it with checked events. Other streams pass unchanged."""

    def __init__(self, stream: EventStream) -> None:
        self._changelog = stream.changelog
        self._kept = {*stream.required, DELETED}
        self._own = set(stream.schema.names)

    def __call__(self, events: Events) -> Events:
        """The same rows; ids, times and keys as they came."""
        if not self._changelog or not events.rows.num_rows:
            return events
        deleted = pc.fill_null(events.rows[DELETED], False)
        some = pc.any(deleted).as_py()
        columns = []
        for field, column in zip(events.rows.schema, events.rows.columns, strict=True):
            made = column
            if field.name == DELETED:
                made = deleted
            elif field.name in self._own - self._kept:
                if field.type == TIMESTAMP:
                    made = pc.floor_temporal(made, unit="second")
                if some:
                    made = pc.if_else(deleted, pa.scalar(None, field.type), made)
            columns.append(made)
        return replace(events, rows=pa.RecordBatch.from_arrays(columns, schema=events.rows.schema))
