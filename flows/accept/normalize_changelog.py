"""Normalise the rows of a changelog before they are logged, so that every reader may rely on these rules.

- `deleted` is never null: null means false.
- A deleted row holds only its id, its time, its key and `deleted`; all other values are null, whatever the producer
  sent. So the online store, the point-in-time join and enrichment need no rule for deletions.
- A timestamp other than the event's own is truncated to whole seconds. Feast's `UNIX_TIMESTAMP` holds seconds online;
  so the log, and every offline read, has the same value.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from flows.blocks import TIMESTAMP, Events
from flows.streams import EventStream

DELETED = "deleted"


class ChangelogNormalizer:
    """Normalises the rows of a changelog; events of other streams pass unchanged."""

    def __init__(self, stream: EventStream) -> None:
        self._changelog = stream.changelog
        self._kept = {*stream.required, DELETED}
        self._own = set(stream.schema.names)

    def __call__(self, events: Events) -> Events:
        """Return the normalised rows; ids, times and keys are unchanged."""
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
